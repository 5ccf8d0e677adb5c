"""Chunk sizes: how much is computed in one go, to bound memory or to stay in a CPU's caches.

They change results by rounding only. Those of the CPU were measured on two cores of a server; those of other
devices are only large enough to keep the device busy within its memory. To try others:

    with sizes(encoded_items=16):
        ...
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Sizes:
    """Chunk sizes for one kind of device; the defaults are those of a CPU.

    "Numbers" counts the elements of items, such as pixels × channels, not the items.

    Args:
        encoded_items: Number of items that `embed` encodes in one call if no gradient is needed. On a CPU,
            activations then stay in the caches, and below the size at which the C library returns their
            memory to the system after each use. Measured by evaluation of 5-way 1-shot Omniglot.
        group_numbers: Total numbers in the items of the tasks that an inner loop runs in one batch; half of
            it for a model without `forward_per_task`. Measured by MAML's step (`benchmarks.training_step`).
        group_support_numbers: Total numbers in the support items of these tasks, if items are pictures;
            `group_limits` scales it by the kind of model and the order of the gradient. Measured in the same
            way as `group_numbers`.
        threaded_task_numbers: Numbers in the pictures of a task below which each group of tasks runs in a
            thread on its own core; with larger tasks, running the groups in turn on all cores is equally
            fast. 0 turns threads off. Measured by MAML's step with 1 to 15 queries per class.
        vmapped_task_numbers: Numbers in the pictures of a task below which a module without
            `forward_per_task` runs by vmap; with larger tasks, running them in turn is faster, because
            activations stay in the caches. Measured by MAML's step with a module of plain layers.
        first_block_numbers: Numbers in the pictures that `conv_pool_relu` takes in one pass, so that its
            activations never leave the caches. Measured by MAML's step with 75 queries per task.
        optimizer_coordinates: Number of weights for which `LearnedOptimizer` computes a step in one call, for
            coordinatewise rules. Measured by `benchmarks.optimizer_step`.
        lstm_coordinates: Number of weights for which `lstm_step` computes the gates in one call; other
            devices take all. Measured by `benchmarks.lstm_meta_learner`.
        decoded_items: Number of items that a thread decodes before it reports, because handing over each
            item costs more than decoding it. Measured by `benchmarks.decode`.
        decoded_frames: Number of frames of sound that are decoded in one read, so that a file with many
            channels takes little memory.
        embedded_files: Number of files that are decoded, then encoded, in one chunk. It sets the memory they
            take, and how often an enrollment is written. Measured by `benchmarks.enrollment`.
        database_rows: Number of rows of a gallery's database that are read or written in one query.
        searched_distances: Number of distances that a search in a gallery holds in memory. Measured by
            `benchmarks.gallery`.
        scored_pairs: Number of pair scores that a comparison of poolings holds in memory.
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
"""Chunk sizes for a CPU."""
ACCELERATOR = Sizes(
    encoded_items=4096,
    group_numbers=2**22,
    group_support_numbers=2**22,
    threaded_task_numbers=0,
    first_block_numbers=2**22,
    optimizer_coordinates=2**18,
    lstm_coordinates=2**62,
)
"""Chunk sizes for all other devices."""
_current: ContextVar[tuple[Sizes, Sizes]] = ContextVar("quickstudy_sizes", default=(CPU, ACCELERATOR))


def sizes_on(device: str = "cpu") -> Sizes:
    """Chunk sizes in effect on a kind of device.

    Args:
        device: Type of the device, as in `torch.device.type`; "cpu" also for work outside torch, such as
            decoding.
    """
    cpu, accelerator = _current.get()
    return cpu if device == "cpu" else accelerator


@contextmanager
def sizes(**changes: int) -> Generator[None]:
    """Use other chunk sizes inside the block, on every device, in the current thread.

    Args:
        changes: New values of fields of `Sizes`, by name, each at least 0.

    Raises:
        ValueError: If a size is negative.
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
