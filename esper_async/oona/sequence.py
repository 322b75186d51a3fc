"""Numbers on what a producer puts on a stream, and what they tell the one who reads it.

A producer numbers each stream for itself, from 1, under a random incarnation, as it begins anew
when it starts again. Lanes have numbers of their own, so overtaking on the emergency lane is no
gap; so has what goes through a spool, which may wait while other messages pass. Whatever was
dropped, pushed back or refused before Redis has no number.
"""

import secrets
from bisect import bisect_right
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

_LINES_KEPT = 256
_HOLES_KEPT = 128


class Numbering:
    """Numbers what one producer sends in one way; the caller sees to it that one does at a time."""

    def __init__(self) -> None:
        self.incarnation = secrets.randbits(64) or 1
        self._last: dict[str, int] = {}

    def take(self, stream: str) -> int:
        """Return the next number on a stream."""
        number = self._last.get(stream, 0) + 1
        self._last[stream] = number
        return number

    def give_back(self, stream: str) -> None:
        """Take back the last number on a stream: its message was not sent."""
        self._last[stream] -= 1

    def given_back_on(self, *errors: type[Exception]) -> "_GivenBack":
        """Take back every number of a `with` block that ends with one of `errors`.

        They say that nothing was sent, and that nobody else took a number meanwhile.
        """
        return _GivenBack(self._last, errors)


class _GivenBack:  # around every publish: a generator would take three times as long
    __slots__ = ("_before", "_errors", "_last")

    def __init__(self, last: dict[str, int], errors: tuple[type[Exception], ...]) -> None:
        self._last = last
        self._before = last.copy()
        self._errors = errors

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, self._errors):
            self._last.clear()
            self._last.update(self._before)


@dataclass(slots=True)
class _Line:
    """How far the numbers of one incarnation on one stream have come, and the holes in them.

    Holes are (first, last), in order and apart.
    """

    highest: int
    holes: list[tuple[int, int]] = field(default_factory=list)

    def fill(self, number: int) -> bool:
        """Take a number that is not above the highest; tell whether it was missing."""
        place = bisect_right(self.holes, number, key=lambda hole: hole[0]) - 1
        if place < 0 or self.holes[place][1] < number:
            return False
        first, last = self.holes[place]
        parts = ((first, number - 1), (number + 1, last))
        self.holes[place : place + 1] = [part for part in parts if part[0] <= part[1]]
        return True


class Tracker:
    """Counts numbers that were passed over, by stream, and those of them that came after all.

    `passed_over` less `late` is what is missing. The first number that is seen of an incarnation
    is where its count begins, as a reader may join at any time; one that was seen before is a
    repeat and changes nothing. It remembers the incarnations that were heard last, and of each
    the last holes: a late arrival that is older is taken for a repeat.
    """

    def __init__(self, *, lines_kept: int = _LINES_KEPT, holes_kept: int = _HOLES_KEPT) -> None:
        self.passed_over: Counter[str] = Counter()
        self.late = 0
        self._lines_kept = lines_kept
        self._holes_kept = holes_kept
        self._lines: OrderedDict[tuple[str, int], _Line] = OrderedDict()

    def observe(
        self, stream: str, incarnation: int, number: int, *, redelivered: bool = False
    ) -> None:
        """Take in what an envelope says; 0 for either means that nobody numbered it.

        What lies between redelivered entries was acknowledged, by this consumer before it started
        or by another: they begin no count and pass over nothing.
        """
        if not (incarnation and number):
            return
        key = (stream, incarnation)
        line = self._lines.get(key)
        if line is None:
            if not redelivered:
                self._begin(key, number)
            return
        self._lines.move_to_end(key)
        passed_over = number - line.highest - 1
        if passed_over < 0:
            self.late += line.fill(number)
        else:
            if passed_over and not redelivered:
                self.passed_over[stream] += passed_over
                line.holes.append((line.highest + 1, number - 1))
            line.highest = number
        if len(line.holes) > self._holes_kept:
            del line.holes[0]

    def _begin(self, key: tuple[str, int], number: int) -> None:
        self._lines[key] = _Line(number)
        if len(self._lines) > self._lines_kept:
            self._lines.popitem(last=False)
