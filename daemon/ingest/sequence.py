"""Numbers in, gaps and duplicates out. Pure: no clock, no socket, no image."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

MAX_EPOCHS_PER_CAMERA = 32


@dataclass(frozen=True, slots=True)
class Gap:
    """Numbers that were sent and never received, both inclusive."""

    first_seq: int
    last_seq: int

    @property
    def frames(self) -> int:
        """How many numbers are missing."""
        return self.last_seq - self.first_seq + 1


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A number at or before the last one of its epoch.

    It was received before, or it is late and has been counted in a gap. Either way it is
    accounted for, and counting it again would break `sent = received - duplicates + gaps`.
    """

    last_seq: int


class SequenceTracker:
    """Remembers the last number per camera and epoch.

    Numbers count from 0 in each epoch, so what was sent before the first one received is a gap
    too, unless the epoch is one of `older`. Frames lost after the last one received show when their
    sender says how far it is. Beside those it was given, at most MAX_EPOCHS_PER_CAMERA epochs are
    remembered per camera; the caller passes only configured cameras, so memory is bounded.
    """

    def __init__(
        self,
        last_seqs: Mapping[tuple[str, int], int] | None = None,
        older: Mapping[tuple[str, int], int] | None = None,
    ) -> None:
        """Take up where earlier starts of the daemon were.

        Args:
            last_seqs: (camera, epoch) -> last number accounted for.
            older: The same of epochs in which holes are not known any more: numbers go on
                from there, and for `last` the epoch is not known.
        """
        self._last: dict[str, OrderedDict[int, int]] = {}
        self._older = dict(older or {})
        self._max_epochs = MAX_EPOCHS_PER_CAMERA + len(last_seqs or {})
        for (camera, epoch), seq in (last_seqs or {}).items():
            self._remember(camera, epoch, seq)

    def observe(self, camera: str, epoch: int, seq: int) -> Gap | Duplicate | None:
        """Account for one received number; None means it is the next one."""
        last_seq = self._accounted(camera, epoch)
        if seq <= last_seq:
            return Duplicate(last_seq)
        self._remember(camera, epoch, seq)
        return Gap(last_seq + 1, seq - 1) if seq > last_seq + 1 else None

    def observe_last(self, camera: str, epoch: int, seq: int) -> Gap | None:
        """The sender says that `seq` was the last one: what has not come until now is a gap."""
        last_seq = self._accounted(camera, epoch)
        if seq <= last_seq:
            return None
        self._remember(camera, epoch, seq)
        return Gap(last_seq + 1, seq)

    def last(self, camera: str, epoch: int, default: int) -> int:
        """The last number accounted for; `default` in an epoch that is not known."""
        return self._last.get(camera, OrderedDict()).get(epoch, default)

    def join(self, camera: str, epoch: int, seq: int) -> None:
        """Begin an epoch in the middle: what came before `seq` is not a gap."""
        self._remember(camera, epoch, seq - 1)

    def _accounted(self, camera: str, epoch: int) -> int:
        return self.last(camera, epoch, self._older.get((camera, epoch), -1))

    def _remember(self, camera: str, epoch: int, seq: int) -> None:
        epochs = self._last.setdefault(camera, OrderedDict())
        epochs[epoch] = seq
        epochs.move_to_end(epoch)
        if len(epochs) > self._max_epochs:
            epochs.popitem(last=False)
