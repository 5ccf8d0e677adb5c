"""The items of a pool as a tensor, where episodes gather them: in memory, or once on an accelerator."""

import warnings
from weakref import WeakValueDictionary

import torch

from quickstudy.data.formats.items import Items
from quickstudy.data.mapped import give_back

KEPT, AROUND = 256 * 2**20, 2**17
"""Bytes of a mapped file that may stay in memory, and those around an item that systems read with it."""


class Stored:
    """All items of a pool, flat, [I, ...]: on a device if they fit there, else in memory.

    Args:
        items: Items of a pool, [I, ...], uint8, int16 or float32.
        device: Device that the items are wanted on. In memory they are not copied; to an accelerator they
            are, if the copy takes at most half of its free memory.
    """

    def __init__(self, items: Items, device: torch.device) -> None:
        self.items = items  # kept, so that its `id` names nothing else
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about read-only arrays, which are only read here
            flat = torch.from_numpy(items).flatten(1)
        self._read = 0
        fits = device.type != "cpu" and flat.nbytes <= free_memory(device) // 2
        self.tensor = flat.to(device) if fits else flat
        if fits:
            give_back(items)

    def take(self, index: torch.Tensor) -> torch.Tensor:
        """Items [B, ...], flat, by their indices [B]; those of a mapped file don't stay in memory.

        Args:
            index: [B] indices of items.
        """
        found = self.tensor.index_select(0, index.to(self.tensor.device, non_blocking=True))
        self._read += len(index) * (self.tensor[:1].nbytes + AROUND)
        if self._read > KEPT:
            give_back(self.items)
            self._read = 0
        return found


_ALIVE: "WeakValueDictionary[tuple[int, torch.device], Stored]" = WeakValueDictionary()
"""What episodes hold, by items and device. The splits of a pool share one copy, which goes with the last."""


def stored(items: Items, device: torch.device | str) -> Stored:
    """The items of a pool where episodes on a device gather them; one copy for all of its splits.

    Args:
        items: Items of a pool, [I, ...], uint8, int16 or float32.
        device: Device of the episodes.
    """
    where = torch.empty(0, device=device).device  # with the number of the card, where that isn't said
    found = _ALIVE.get((id(items), where))
    if found is None:
        found = _ALIVE[id(items), where] = Stored(items, where)
    return found


def free_memory(device: torch.device) -> int:
    """Free memory of an accelerator in bytes; 0 where it isn't known.

    Args:
        device: Device other than the CPU.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        # what torch keeps for reuse is free for us, too
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return 0
