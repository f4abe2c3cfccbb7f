"""Which public key may speak for which camera: a folder with one file of keys a camera.

`CAMERA.key` holds one key a line, its owner's name after it; a line that begins with `# ` is a
comment. `_verdicts.key` holds those who may read verdicts. What cannot be read allows nobody.
"""

import errno
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from daemon.log import RateLimitedLog
from daemon.security.key_files import is_key

logger = logging.getLogger(__name__)

VERDICTS = "_verdicts"
"""Stands where a camera's name otherwise does; no camera's name begins with `_`."""
MAX_FILE_BYTES = 1 << 20
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
"""Strangers' connections have taken them all for a moment; that says nothing of the folder."""


@dataclass(frozen=True, slots=True)
class AllowedKey:
    """One line: this key may speak for `subject`, a camera or VERDICTS."""

    subject: str
    key: str
    owner: str


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """`guarded` holds the cameras with a file, be it empty: a revoked key opens no other way."""

    subjects_of: Mapping[str, frozenset[str]] = field(default_factory=dict)
    guarded: frozenset[str] = frozenset()


class AllowList:
    """The folder as last read. `refresh` is one thread's; the questions may come from any.

    Attributes:
        verdict_revocations: Goes up when somebody may read verdicts no longer.
    """

    def __init__(self, folder: Path) -> None:
        """Read it; a folder that is not there allows nobody."""
        self.folder = folder
        self.verdict_revocations = 0
        self._warnings = RateLimitedLog(logger, interval_s=60.0)
        self._signature: object = None
        self._snapshot = _Snapshot()  # replaced whole, never changed
        self.refresh()

    def refresh(self) -> None:
        """Read the folder again if anything in it changed; without a descriptor, the next time."""
        try:
            self._refresh()
        except OSError as error:
            if error.errno not in _NO_DESCRIPTOR:
                raise
            self._warnings.warning("descriptor", "allowed keys not read", detail=str(error))

    def may_send(self, camera: str, key: str | None) -> bool:
        """Whether a message of `camera` may come from the holder of `key`.

        Args:
            key: None on a plain socket; a camera with a file of keys is not accepted there.
        """
        snapshot = self._snapshot
        if key is None:
            return camera not in snapshot.guarded
        return camera in snapshot.subjects_of.get(key, ())

    def may_connect(self, key: str) -> bool:
        """Whether the key speaks for any camera."""
        return any(subject != VERDICTS for subject in self._snapshot.subjects_of.get(key, ()))

    def may_read(self, key: str) -> bool:
        """Whether the holder of the key may read verdicts."""
        return VERDICTS in self._snapshot.subjects_of.get(key, ())

    def _refresh(self) -> None:
        signature = _signature(self.folder)
        if signature == self._signature:
            return
        subjects_of: dict[str, set[str]] = {}
        entries, problems = read_allowed(self.folder)
        for entry in entries:
            subjects_of.setdefault(entry.key, set()).add(entry.subject)
        for problem in problems:
            self._warnings.warning(problem, "allowed keys not read", detail=problem)
        new = _Snapshot(
            {key: frozenset(subjects) for key, subjects in subjects_of.items()},
            frozenset(path.stem for path in self.folder.glob("*.key")),
        )
        old, self._snapshot = self._snapshot, new
        if any(VERDICTS in subjects and not self.may_read(key) for key, subjects in _items(old)):
            self.verdict_revocations += 1
        if self._signature is not None:
            logger.info("allowed keys read", extra={"keys": len(subjects_of)})
        self._signature = signature


def read_allowed(folder: Path) -> tuple[list[AllowedKey], list[str]]:
    """Every key of the folder in order of subjects, and one sentence for each unreadable line.

    Raises:
        OSError: No file can be opened at the moment.
    """
    entries: list[AllowedKey] = []
    problems: list[str] = []
    for path in sorted(folder.glob("*.key")):
        try:
            with path.open("rb") as file:
                text = file.read(MAX_FILE_BYTES).decode("utf-8", errors="replace")
        except OSError as error:
            if error.errno in _NO_DESCRIPTOR:
                raise
            problems.append(f"{path} cannot be read: {error.strerror}")
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.startswith("# "):
                continue
            key, _, owner = line.strip().partition(" ")
            if is_key(key):
                entries.append(AllowedKey(path.stem, key, owner.strip()))
            else:
                problems.append(f"{path}:{number}: no key; use `zsad keys allow`")
    return entries, problems


def allow(folder: Path, entry: AllowedKey) -> bool:
    """Add a key; False if it was allowed already.

    Raises:
        OSError: The folder cannot be written.
    """
    path = folder / f"{entry.subject}.key"
    folder.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if any(line.split(" ", 1)[0] == entry.key for line in lines):
        return False
    _replace(path, [*lines, f"{entry.key} {entry.owner}".rstrip()])
    return True


def revoke(folder: Path, key: str, subject: str | None = None) -> list[AllowedKey]:
    """Take a key out, of `subject` alone or everywhere; what was taken out.

    Raises:
        OSError: The folder cannot be written.
    """
    gone = [
        entry
        for entry in read_allowed(folder)[0]
        if entry.key == key and subject in (None, entry.subject)
    ]
    for entry in gone:
        path = folder / f"{entry.subject}.key"
        lines = path.read_text(encoding="utf-8").splitlines()
        _replace(path, [line for line in lines if line.strip().split(" ", 1)[0] != key])
    return gone


def _items(snapshot: _Snapshot) -> list[tuple[str, frozenset[str]]]:
    return list(snapshot.subjects_of.items())


def _signature(folder: Path) -> object:
    """Changes whenever a file does."""
    try:
        with os.scandir(folder) as files:
            stats = [(file.name, file.stat()) for file in files if file.name.endswith(".key")]
    except OSError as error:  # the folder is gone, or a file is just being replaced
        if error.errno in _NO_DESCRIPTOR:
            raise
        return (error.errno,)
    return sorted((name, stat.st_mtime_ns, stat.st_size, stat.st_ino) for name, stat in stats)


def _replace(path: Path, lines: list[str]) -> None:
    """Write the file whole, readable as before; an empty list stays as an empty file."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    new.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
    new.replace(path)
