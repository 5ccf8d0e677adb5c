"""Tasks of one's own, from a function, a list or a generator of episodes."""

import hashlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any, TypeGuard

import torch

from quickstudy.core.arguments import check_whole, checked_class
from quickstudy.core.episode import Episode, Support
from quickstudy.core.errors import WrongTypeError
from quickstudy.core.seeds import derived_seed, generators_kept
from quickstudy.core.wording import plural
from quickstudy.data.pool import described

TaskSource = (
    Callable[[int], Episode] | Sequence[Episode] | Iterator[Episode] | Callable[[], Iterator[Episode]]
)
"""What `OwnTasks` takes: a function, a list, a generator or a generator function of episodes."""


@checked_class
class OwnTasks:
    """Meta-batches of your own: episodes of text, of a simulator, regressions, whatever makes an `Episode`.

    While meta-batch i is made, the global random generators of torch, numpy and Python are seeded by the seed
    and i, and restored afterwards. So a function that draws from them, or from nothing, gives the same
    meta-batch i whenever it is asked, also when a training is resumed or shared by several processes.

    `fit` and `evaluate` make one of a function, a list or a generator that they are given, with seed 0 to
    train on, 1 to validate on and 2 to evaluate on.

    Args:
        source: What gives the meta-batches, each an `Episode` of as many tasks T. A function from i to
            meta-batch i; a list of them; a generator; or a generator function, which is called anew when an
            earlier meta-batch is asked for. A generator can't go back, so it does for training alone, and a
            training that is resumed goes on with its next meta-batch instead of the one it stopped at.
        seed: Seed of the global random generators, at least 0.
        setting: Label of the tasks in results.
        device: Device of the returned tensors.

    Raises:
        TypeError: If the source is something else.
        ValueError: If the seed is negative.
    """

    def __init__(
        self,
        source: TaskSource,
        seed: int = 0,
        setting: str = "own tasks",
        device: torch.device | str = "cpu",
    ) -> None:
        check_whole(0, seed=seed)
        if not gives_tasks(source):
            raise WrongTypeError(
                f"tasks are given by a {type(source).__name__}: give a function from i to an Episode, a list "
                "or a generator of episodes"
            )
        self.source, self.seed, self.setting, self.device = source, seed, setting, device
        self._reader = _Reader(source, seed)

    @property
    def tasks(self) -> int:
        """Number T of tasks in a meta-batch: that of the first."""
        return self._reader.first.tasks

    @property
    def repeatable(self) -> bool:
        """Whether a meta-batch can be asked for again; not of a generator."""
        return not isinstance(self.source, Iterator)

    def on(self, device: torch.device | str) -> "OwnTasks":
        """The same tasks on another device; the two share a generator.

        Args:
            device: Device of the returned tensors.
        """
        other = copy(self)
        other.device = device
        return other

    def __getitem__(self, i: int) -> Episode:
        """Meta-batch i, an episode of T tasks."""
        return self.part(i)

    def part(self, i: int, rank: int = 0, world: int = 1) -> Episode:
        """The tasks of meta-batch i for one of several processes: every `world`-th task from `rank` on.

        Args:
            i: Index of the meta-batch, at least 0.
            rank: Index of this process, 0 … world − 1.
            world: Number of processes.

        Raises:
            TypeError: If the source gives something else than an `Episode`.
            ValueError: If there is no meta-batch i, or none any more, or its number of tasks is another.
        """
        check_whole(0, i=i)
        tasks, e = self.tasks, self._reader.read(i)
        if e.tasks != tasks:
            raise ValueError(
                f"meta-batch {i} has {plural(e.tasks, 'task')} and the first {tasks}: give each as many"
            )
        e = e[rank::world] if world > 1 else e
        if all(x.device == torch.device(self.device) for x in (e.support.x, e.query_x)):
            return e
        s, to = e.support, self.device
        support = Support(s.x.to(to), s.y.to(to), s.ways, s.unlabelled.to(to), s.names)
        return Episode(support, e.query_x.to(to), e.query_y.to(to))

    def check_enough(self, meta_batches: int, repeated: bool = False) -> None:
        """Refuse a list that is too short, or a generator that would have to go back.

        Args:
            meta_batches: Number of meta-batches that will be asked for.
            repeated: Whether they will be asked for several times.

        Raises:
            ValueError: If there is one.
        """
        if isinstance(self.source, list | tuple) and len(self.source) < meta_batches:
            raise ValueError(_ended(len(self.source), meta_batches))
        if repeated and not self.repeatable:
            raise ValueError(
                "a generator can't give the same tasks in each validation: give a function from i to an "
                "Episode, or a list"
            )

    def summary(self) -> dict[str, Any]:
        """JSON-serializable description for a manifest, with a digest of the first meta-batch."""
        named = described(self.source) if inspect.isroutine(self.source) else type(self.source).__name__
        return {
            "kind": type(self).__name__,
            "source": named,
            "setting": self.setting,
            "tasks": self.tasks,
            "seed": self.seed,
            "first": _digest(self._reader.first) if self.repeatable else None,
        }


def gives_tasks(source: Any) -> bool:
    """Whether something may be the source of `OwnTasks`.

    Args:
        source: Anything.
    """
    if isinstance(source, torch.utils.data.Dataset | torch.utils.data.DataLoader | torch.nn.Module | type):
        return False
    return callable(source) or isinstance(source, Iterator | list | tuple)


def validates(given: Any) -> TypeGuard[Callable[[], Any]]:
    """Whether something is a function that validates, and no source of tasks: it is called without arguments.

    Args:
        given: Anything.
    """
    if not callable(given) or inspect.isgeneratorfunction(given):
        return False
    try:
        inspect.signature(given).bind()
    except TypeError:
        return False
    except ValueError:  # one of C, which doesn't say
        pass
    return True


def as_batches(given: Any, seed: int) -> Any:
    """What `fit` or `evaluate` was given, with a source of tasks made into `OwnTasks`.

    Args:
        given: Anything.
        seed: Seed of the tasks.
    """
    is_batches = all(hasattr(given, part) for part in ("tasks", "seed", "on", "part"))
    return OwnTasks(given, seed) if not is_batches and gives_tasks(given) else given


class _Reader:
    """Reads meta-batches of a source by their index, and remembers the first and the last."""

    def __init__(self, source: TaskSource, seed: int) -> None:
        self._source, self._seed = source, seed
        self._iterator = source if isinstance(source, Iterator) else None
        self._next = 0  # index of the meta-batch that the iterator gives next
        self._last: tuple[int, Episode] | None = None
        self._first: Episode | None = None

    @property
    def first(self) -> Episode:
        """Meta-batch 0."""
        self._first = self._first or self.read(0)
        return self._first

    def read(self, i: int) -> Episode:
        """Meta-batch i."""
        if self._last and self._last[0] == i:
            return self._last[1]
        given: Any = self._given(i)
        if not isinstance(given, Episode):
            raise WrongTypeError(
                f"meta-batch {i} of the tasks is a {type(given).__name__}: give an Episode, "
                "Episode(Support(x, y, ways), query_x, query_y), of tensors [T, …]"
            )
        self._last = i, given
        return given

    def _given(self, i: int) -> Any:
        source: Any = self._source
        if isinstance(source, list | tuple):
            if i < len(source):
                return source[i]
            raise ValueError(_ended(len(source), i + 1))
        if isinstance(source, Iterator):
            if i < self._next:
                raise ValueError(
                    f"a generator can't go back to meta-batch {i}: to validate or evaluate give a function "
                    "from i to an Episode, or a list"
                )
            if i > self._next:
                warnings.warn(
                    f"a generator can't be resumed at meta-batch {i}, so it goes on with its next: for an "
                    "exact resume give a function from i to an Episode",
                    stacklevel=2,
                )
                self._next = i
            return self._following()
        if not inspect.isgeneratorfunction(source):
            with generators_kept(derived_seed(self._seed, i)):
                return source(i)
        if self._iterator is None or i < self._next:
            self._iterator, self._next = source(), 0
        while self._next < i:
            self._following()
        return self._following()

    def _following(self) -> Any:
        assert self._iterator is not None
        try:
            with generators_kept(derived_seed(self._seed, self._next)):
                given = next(self._iterator)
        except StopIteration:
            raise ValueError(
                f"the generator ends after {_meta_batches(self._next)}, and one more is asked for: let it "
                "give more, or ask for fewer"
            ) from None
        self._next += 1
        return given


def _ended(given: int, asked: int) -> str:
    return (
        f"the list has {_meta_batches(given)} of tasks, and {asked} are asked for: give more, ask for fewer, "
        f"or let them come again, lambda i: tasks[i % {given}]"
    )


def _meta_batches(n: int) -> str:
    return f"{n} meta-batch{'es' * (n != 1)}"


def _digest(episode: Episode) -> str:
    """Hash of all numbers of an episode."""
    s, hashed = episode.support, hashlib.blake2b(digest_size=8)
    for x in (s.x, s.y, s.unlabelled, episode.query_x, episode.query_y):
        hashed.update(f"{list(x.shape)} {x.dtype}".encode())
        hashed.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()
