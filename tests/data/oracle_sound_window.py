"""The rule by which the window around a sound is chosen, derived again: slow, literal, sum by sum."""

from fractions import Fraction
from itertools import groupby, pairwise


def window(x: list[int], rate: int, length: int, strongest: bool) -> list[int]:
    """The clip of a recording without offset, as the rule states it."""
    start = begin(x, rate, length, strongest)
    return [x[i] if 0 <= i < len(x) else 0 for i in range(start, start + length)]


def begin(x: list[int], rate: int, length: int, strongest: bool) -> int:
    """Index of the window's first sample."""
    n, frame = len(x), max(1, min(round(rate / 40), length // 8))
    times = range(n + frame)

    def energy(t: int) -> int:
        return sum(x[i] ** 2 for i in range(t - frame + 1, t + 1) if 0 <= i < n)

    e = {t: energy(t) for t in times}
    if not any(e.values()):
        return (n - length) // 2
    lasting = max((min(e[t], e[t + 2 * frame]) for t in times if t + 2 * frame in e), default=0)
    floor, stretch = Fraction(0), max(1, length // 4)
    if n > length:
        quietest = min(sum(v * v for v in x[i : i + stretch]) for i in range(n - stretch + 1))
        floor = Fraction(quietest * frame, stretch)
    threshold = max(Fraction(lasting, 100), min(4 * floor, Fraction(max(e.values()), 4)))

    def runs(of: list[int], apart: int) -> list[list[int]]:
        """Parts of rising numbers that are at most so far apart."""
        found = [[of[0]]]
        for before, now in pairwise(of):
            if now - before > apart:
                found.append([])
            found[-1].append(now)
        return found

    heard = runs([t for t in times if e[t] > threshold], 1)
    long = [run for run in heard if len(run) >= 2 * frame]
    counted = [t for run in long or heard for t in run]
    a = {t: round(e[t] ** 0.5) if t in counted else 0 for t in times}
    sounds = runs(counted, max(1, length // 5 - frame))
    sums = [sum(a[t] for t in sound) for sound in sounds]
    sound = sounds[sums.index(max(sums))]
    samples = [i for i in range(n) if sound[0] - frame < i <= sound[-1] and x[i]]
    first, after = samples[0], samples[-1] + 1
    if after - first > length and strongest:
        windows = range(first, after - length + 1)

        def heard_in(s: int) -> int:
            return sum(a[t] for t in times if s <= t - frame // 2 < s + length)

        equal = [list(g) for _, g in groupby(windows, key=heard_in)]
        best = max(equal, key=lambda g: heard_in(g[0]))
        return best[(len(best) - 1) // 2]
    inside = range(sound[0], sound[-1] + 1)
    total = sum(a[t] for t in inside)

    def until(t: int) -> int:
        return sum(a[u] for u in inside if u <= t)

    left = next(t for t in inside if 2 * until(t) >= total)
    right = next((t for t in inside if 2 * until(t) > total), sound[-1])
    start = (left + right - frame + 1) // 2 - length // 2
    low, high = min(first, after - length), max(first, after - length)
    return min(max(start, low), high)
