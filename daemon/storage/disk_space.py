"""How much is left on a disk, and what is not written any more when it gets little."""

import errno
import os
from collections.abc import Iterable
from dataclasses import replace
from enum import IntEnum
from pathlib import Path

from daemon.core import Inspection, Verdict
from daemon.storage.batch import Result


class Shed(IntEnum):
    """What is left out, in this order; rows are never left out, inspection waits instead."""

    NOTHING = 0
    OK_PICTURES = 1  # of OK and LEARNING frames
    ALL_PICTURES = 2


class DiskSpace:
    """The file system of one folder, against the reserve that should stay free on it."""

    def __init__(self, folder: Path, reserve_bytes: int) -> None:
        self._folder = folder
        self._reserve_bytes = reserve_bytes

    def free_bytes(self) -> int:
        """What a process without privileges may still write; 0 where the folder is gone."""
        try:
            found = os.statvfs(self._folder)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EIO, errno.ESTALE, errno.EACCES):
                return 0
            raise
        return found.f_bavail * found.f_frsize

    def shed(self) -> Shed:
        """Pictures of good parts go when the reserve is touched, all when half of it is gone."""
        free = self.free_bytes()
        if free < self._reserve_bytes // 2:
            return Shed.ALL_PICTURES
        return Shed.OK_PICTURES if free < self._reserve_bytes else Shed.NOTHING


def without_pictures(results: Iterable[Result], shed: Shed) -> tuple[Result, ...]:
    """The results with the pictures left out that `shed` names; nothing else changes."""
    return tuple(_lighter(result, shed) for result in results)


def count_pictures(results: Iterable[Result]) -> int:
    """Inspections that have pictures."""
    return sum(isinstance(item, Inspection) and item.thumbnails is not None for item in results)


def _lighter(result: Result, shed: Shed) -> Result:
    if not isinstance(result, Inspection) or result.thumbnails is None:
        return result
    is_routine = result.verdict in (Verdict.OK, Verdict.LEARNING)
    if shed is Shed.ALL_PICTURES or (shed is Shed.OK_PICTURES and is_routine):
        return replace(result, thumbnails=None)
    return result
