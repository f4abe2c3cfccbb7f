"""Numbers below the last stored one that have no record: taken by a crash. Pure.

A reliable sender brings them again. Of any other sender they are gaps.
"""

from collections.abc import Iterable, Mapping

from daemon.ingest.sequence import Gap

Start = tuple[str, int]
"""One start of a sender: camera, epoch."""

MAX_HOLE = 4096
"""How far below the first stored number a sender is asked for frames; more than are under way."""


class Holes:
    """What may still come of earlier starts of the daemon. Only grows when it is made."""

    def __init__(
        self, missing: Mapping[Start, Iterable[Gap]], first_seqs: Mapping[Start, int]
    ) -> None:
        """Remember what the database lacks.

        Args:
            missing: Between stored numbers.
            first_seqs: The first stored number; a sender may still have frames from before.
        """
        self._open = {
            start: {seq for gap in gaps for seq in range(gap.first_seq, gap.last_seq + 1)}
            for start, gaps in missing.items()
        }
        self._first_seqs = dict(first_seqs)

    def starts(self) -> list[Start]:
        """Starts of senders of which something is missing."""
        return [start for start, seqs in self._open.items() if seqs]

    def open_above(self, start: Start, acknowledged: int) -> None:
        """The sender keeps everything above `acknowledged`: also from before the first number."""
        first_seq = self._first_seqs.pop(start, 0)
        begin = max(acknowledged + 1, first_seq - MAX_HOLE)
        if begin < first_seq:
            self._open.setdefault(start, set()).update(range(begin, first_seq))

    def lowest(self, start: Start) -> int | None:
        """The first number that is missing."""
        return min(self._open.get(start, ()), default=None)

    def has(self, start: Start, seq: int) -> bool:
        """Whether this number is missing."""
        return seq in self._open.get(start, ())

    def fill(self, start: Start, seq: int) -> None:
        """This number has come."""
        self._open.get(start, set()).discard(seq)

    def give_up(self, start: Start, first_seq: int, last_seq: int) -> list[Gap]:
        """Numbers in [first, last] that will not come any more."""
        lost = {seq for seq in self._open.get(start, ()) if first_seq <= seq <= last_seq}
        if lost:
            self._open[start] -= lost
        return _runs(lost)


def _runs(seqs: Iterable[int]) -> list[Gap]:
    runs: list[Gap] = []
    for seq in sorted(seqs):
        if runs and runs[-1].last_seq == seq - 1:
            runs[-1] = Gap(runs[-1].first_seq, seq)
        else:
            runs.append(Gap(seq, seq))
    return runs
