"""How much is done at once: every size that bounds memory or keeps a CPU's caches warm, in one place.

None of them changes a result by more than rounding. They were measured on two cores of a server's CPU; the
sizes of other devices only keep them busy within their memory. To try others:

    with sizes(encoded_items=16):
        ...
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Sizes:
    """The sizes for one kind of device; the defaults are a CPU's.

    "Numbers" counts the elements of the items (pixels × channels, say), not the items.

    Args:
        encoded_items: Items that `embed` encodes at once where no gradient is wanted. On a CPU activations
            then stay in the caches, and below the size at which the C library returns them to the system
            after each use. Measured by evaluation of 5-way 1-shot Omniglot.
        group_numbers: Numbers in the items of the tasks that an inner loop runs side by side; half as many
            for a model without `forward_per_task`. Measured by MAML's step (`benchmarks.training_step`).
        group_support_numbers: The same bound on the supports alone, where items are pictures; `group_limits`
            has the shares of it. Measured as `group_numbers`.
        threaded_task_numbers: Numbers in the pictures of a task below which each group of tasks gets a thread
            and a core of its own; with larger tasks all cores are as fast at one group after the other.
            Measured by MAML's step with 1 to 15 queries a class. 0: no threads.
        vmapped_task_numbers: Numbers in the pictures of a task below which a module without
            `forward_per_task` runs by vmap; with larger tasks one after the other is faster, since its
            activations stay near the caches. Measured by MAML's step with a module of plain layers.
        first_block_numbers: Numbers in the pictures that `conv_pool_relu` takes at once, so that what it
            makes of them never leaves the caches. Measured by MAML's step with 75 queries a task.
        optimizer_coordinates: Weights whose step `LearnedOptimizer` computes at once, for rules that treat
            every weight alike. Measured by `benchmarks.optimizer_step`.
        lstm_coordinates: Weights whose gates `lstm_step` computes at once. Measured by
            `benchmarks.lstm_meta_learner`; other devices take all.
        decoded_items: Items that a thread decodes before it reports: handing over single ones costs more than
            decoding. Measured by `benchmarks.decode`.
        decoded_frames: Frames of sound that are decoded at once, so that a file of many channels takes little
            memory.
        embedded_files: Files that are decoded, then encoded, at once: the memory they take, and how often an
            enrollment is written. Measured by `benchmarks.enrolment`.
        database_rows: Rows of a gallery's database that are read or written at once.
        searched_distances: Distances that a search in a gallery holds at once. Measured by
            `benchmarks.gallery`.
        scored_pairs: Scores of pairs that a comparison of poolings holds at once.
    """

    encoded_items: int = 64
    group_numbers: int = 2**19
    group_support_numbers: int = 2**17
    threaded_task_numbers: int = 2**15
    vmapped_task_numbers: int = 2**14
    first_block_numbers: int = 2**14
    optimizer_coordinates: int = 4096
    lstm_coordinates: int = 2048
    decoded_items: int = 64
    decoded_frames: int = 2**18
    embedded_files: int = 512
    database_rows: int = 20_000
    searched_distances: int = 2**21
    scored_pairs: int = 10_000_000


CPU = Sizes()
ACCELERATOR = Sizes(
    encoded_items=4096,
    group_numbers=2**22,
    group_support_numbers=2**22,
    threaded_task_numbers=0,
    first_block_numbers=2**22,
    optimizer_coordinates=2**18,
    lstm_coordinates=2**62,
)
_current: ContextVar[tuple[Sizes, Sizes]] = ContextVar("quickstudy_sizes", default=(CPU, ACCELERATOR))


def sizes_on(device: str = "cpu") -> Sizes:
    """The sizes that count on a kind of device.

    Args:
        device: `torch.device.type` of the device. What isn't done on a device at all counts as the CPU's.
    """
    cpu, accelerator = _current.get()
    return cpu if device == "cpu" else accelerator


@contextmanager
def sizes(**changes: int) -> Generator[None]:
    """Use other sizes, on every device, in what this thread does inside the block.

    Args:
        changes: New values of fields of `Sizes`, by name.

    Raises:
        ValueError: If a size is below 0.
    """
    for name, size in changes.items():
        if size < 0:
            raise ValueError(f"{name} is {size}: sizes must be at least 0")
    cpu, accelerator = _current.get()
    before = _current.set((replace(cpu, **changes), replace(accelerator, **changes)))
    try:
        yield
    finally:
        _current.reset(before)
