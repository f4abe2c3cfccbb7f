"""What one check found."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "OK"
    WARN = "WARN"  # works, and will surprise somebody
    FAIL = "FAIL"  # the daemon does not start, or does not do what it is there for


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `zsad doctor`.

    Attributes:
        text: What was seen, with its value.
        advice: What to do; empty for OK.
    """

    level: Level
    name: str
    text: str
    advice: str = ""


def ok(name: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(Level.OK, name, text)


def warn(name: str, text: str, advice: str) -> Finding:
    """Works, and will surprise somebody."""
    return Finding(Level.WARN, name, text, advice)


def fail(name: str, text: str, advice: str) -> Finding:
    """Does not work."""
    return Finding(Level.FAIL, name, text, advice)
