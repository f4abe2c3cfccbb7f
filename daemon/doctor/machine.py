"""Is the machine fit: its clock, its service manager?"""

import ctypes
from collections.abc import Iterator
from pathlib import Path

from daemon.doctor.finding import Finding, ok, warn

UNITS = (Path("/etc/systemd/system"), Path("/usr/lib/systemd/system"), Path("/lib/systemd/system"))
UNIT = "zsad.service"
_TIMEX_BYTES = 256  # struct timex has 208 on 64-bit Linux
_STATUS_AT = 40  # offset of `status` in it, after modes, padding and four longs
_UNSYNCHRONISED = 0x0040  # STA_UNSYNC, adjtimex(2)


def check_machine() -> Iterator[Finding]:
    """Everything that needs no configuration."""
    yield _clock()
    yield from _service()


def _clock() -> Finding:
    """Whether the kernel says that somebody keeps its clock right."""
    is_synchronised = _is_clock_synchronised()
    advice = "enable systemd-timesyncd or chrony: capture times are compared with this clock"
    match is_synchronised:
        case True:
            return ok("clock", "synchronised")
        case False:
            return warn("clock", "not synchronised with a time server", advice)
        case None:
            return warn("clock", "the kernel does not say whether it is synchronised", advice)


def _is_clock_synchronised() -> bool | None:
    """None where it cannot be asked."""
    if Path("/run/systemd/timesync/synchronized").exists():
        return True
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes 0: only read
    try:
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (AttributeError, OSError):
        return None
    if answer < 0:
        return None
    status = int.from_bytes(buffer.raw[_STATUS_AT : _STATUS_AT + 4], "little")
    return not status & _UNSYNCHRONISED


def _service() -> Iterator[Finding]:
    """The unit, and whether this very process is watched."""
    if not Path("/run/systemd/system").is_dir():
        advice = "see to it that something starts the daemon again after a crash"
        yield warn("service", "systemd does not run here", advice)
        return
    found = next((folder / UNIT for folder in UNITS if (folder / UNIT).exists()), None)
    if found is None:
        yield warn("service", f"no {UNIT} installed", "install it as systemd/README.md says")
        return
    yield ok("service", str(found))
    if "\nWatchdogSec=" not in found.read_text(encoding="utf-8", errors="replace"):
        advice = "add WatchdogSec=30: a daemon that hangs is then started again"
        yield warn("watchdog", f"{found} sets none", advice)
    else:
        yield ok("watchdog", "set in the unit; the daemon feeds it")
