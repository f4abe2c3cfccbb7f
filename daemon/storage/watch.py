"""Turns the state of database, spool and disks into diary entries, one for each change."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from daemon.core import Event, EventKind, Severity
from daemon.storage.disk_space import Shed


@dataclass(frozen=True, slots=True)
class StorageState:
    """How storing stands.

    Attributes:
        is_spooling: Results wait on disk for the database.
        shed: What is left out at the moment.
        is_blocked: The spool takes nothing more: inspection waits, frames are lost at the
            entrance, with a count.
    """

    is_spooling: bool = False
    shed: Shed = Shed.NOTHING
    is_blocked: bool = False


def changes(before: StorageState, now: StorageState, at_utc: datetime) -> Iterator[Event]:
    """What a person should read later, or act on now."""

    def event(kind: EventKind, severity: Severity, detail: str) -> Event:
        return Event(kind, severity, at_utc, detail)

    if now.is_spooling and not before.is_spooling:
        detail = "the database is away or slow; results go to the spool"
        yield event(EventKind.SPOOLING, Severity.WARNING, detail)
    if before.is_spooling and not now.is_spooling:
        detail = "the database has taken everything from the spool"
        yield event(EventKind.SPOOL_EMPTY, Severity.INFO, detail)
    if now.is_blocked and not before.is_blocked:
        detail = "neither database nor spool takes results; inspection waits: make space"
        yield event(EventKind.STORAGE_BLOCKED, Severity.ALARM, detail)
    if now.shed > before.shed:
        what = "of OK and LEARNING frames" if now.shed is Shed.OK_PICTURES else "of all frames"
        detail = f"little disk space: pictures {what} are not stored; make space"
        yield event(EventKind.DISK_LOW, Severity.ALARM, detail)
    if now.shed is Shed.NOTHING and before.shed is not Shed.NOTHING:
        yield event(EventKind.DISK_RECOVERED, Severity.INFO, "pictures are stored again")
