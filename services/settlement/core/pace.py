"""How far settling is behind matching, from samples of two counters."""

from collections import deque
from dataclasses import dataclass, field

KEPT_S = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters of all markets together at a moment (seconds of a steady clock)."""

    at_s: float
    matched: int
    settled: int


@dataclass(slots=True)
class Pace:
    """The samples of the last minute, and since when each trade that waits was seen."""

    samples: deque[Sample] = field(default_factory=deque)

    def add(self, sample: Sample) -> None:
        """Take a sample; those that no question needs any more are forgotten."""
        self.samples.append(sample)
        # One that shows trades still unsettled tells since when they wait, however old it is; of a row of such the first.
        while len(self.samples) > 2 and self.samples[1].at_s < sample.at_s - KEPT_S:
            if self.samples[0].matched > sample.settled:
                del self.samples[1]
            else:
                self.samples.popleft()

    def unsettled(self) -> int:
        """Trades matched and not settled."""
        return max(0, self.samples[-1].matched - self.samples[-1].settled) if self.samples else 0

    def oldest_unsettled_s(self) -> float:
        """How long the oldest of them has been seen waiting; 0 where none is."""
        newest = self.samples[-1] if self.samples else None
        if newest is None or newest.matched <= newest.settled:
            return 0.0
        seen_at = next(sample.at_s for sample in self.samples if sample.matched > newest.settled)
        return newest.at_s - seen_at

    def settled_per_s(self) -> float:
        """Over the last minute."""
        return self._per_s("settled")

    def matched_per_s(self) -> float:
        """Over the last minute."""
        return self._per_s("matched")

    def _per_s(self, counter: str) -> float:
        if len(self.samples) < 2:
            return 0.0
        last = self.samples[-1]
        first = next(sample for sample in self.samples if sample.at_s >= last.at_s - KEPT_S)
        if first is last:
            return 0.0
        return float(getattr(last, counter) - getattr(first, counter)) / (last.at_s - first.at_s)
