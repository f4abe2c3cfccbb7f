"""The folder of whole frames: where each file lies, and files that are complete or absent.

    frames/LINE/CAMERA/2026-11-22/13/CAMERA-EPOCH-SEQ.jpg    by UTC hour of receipt
    calibration/LINE/CATEGORY/SHA256.png                     what `zsad calibrate` was given

Knows no table. Paths in the database are relative to the folder, which may so be moved.
"""

import hashlib
import os
import re
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Literal

from daemon.core import FrameId
from daemon.errors import StorageError

Suffix = Literal["jpg", "png"]

FRAMES = "frames"
CALIBRATION = "calibration"
_NAME = re.compile(r"(?!\.)[\w.-]{1,64}", re.ASCII)
_SUFFIX = re.compile(r"[a-z0-9]{1,5}", re.ASCII)


def frame_path(
    line: str, frame_id: FrameId, received_utc: datetime, suffix: Suffix
) -> PurePosixPath:
    """Where a frame's file lies, relative to the folder.

    Raises:
        StorageError: A name cannot be that of a folder.
    """
    camera = _checked_name(frame_id.camera)
    hour = received_utc.astimezone(UTC)
    name = f"{camera}-{frame_id.epoch}-{frame_id.seq}.{suffix}"
    return frames_of(line) / camera / f"{hour:%Y-%m-%d}" / f"{hour:%H}" / name


def frames_of(line: str) -> PurePosixPath:
    """Where the frames of a line lie: several lines may share a folder.

    Raises:
        StorageError: The name cannot be that of a folder.
    """
    return PurePosixPath(FRAMES, _checked_name(line))


def calibration_path(line: str, category: str, sha256: str, suffix: str) -> PurePosixPath:
    """Where an image of an OK part lies, relative to the folder.

    Args:
        suffix: Of the user's file, without the dot.

    Raises:
        StorageError: A name or the suffix cannot be part of a path.
    """
    plain = suffix.lower()
    if _SUFFIX.fullmatch(plain) is None:
        raise StorageError(f"suffix {suffix!r} of an image: 1 to 5 letters and digits are allowed")
    folder = PurePosixPath(CALIBRATION, _checked_name(line), _checked_name(category))
    return folder / f"{sha256}.{plain}"


def write_durably(folder: Path, path: PurePosixPath, content: bytes | memoryview) -> None:
    """Write a file that is complete and on the disk by fsync when this returns, or absent.

    Raises:
        OSError: It cannot be written.
    """
    target = folder / path
    target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    opened = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)  # the rename itself
    finally:
        os.close(opened)


def locate(folder: Path, path: str) -> Path:
    """The file of a path from the database.

    Raises:
        StorageError: It leads out of the folder.
    """
    root = folder.resolve()
    found = (root / path).resolve()
    if not found.is_relative_to(root) or found == root:
        raise StorageError(f"path {path!r} leads out of {folder}: the row is damaged")
    return found


def load(folder: Path, path: str, sha256: str) -> bytes:
    """A kept file, as it was written.

    Raises:
        StorageError: It is gone or was changed.
    """
    try:
        content = locate(folder, path).read_bytes()
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error.strerror})") from error
    if digest(content) != sha256:
        raise StorageError(
            f"{path} is not the file that was kept; somebody or the disk has changed it"
        )
    return content


def problem_of(folder: Path, path: str, sha256: str) -> str | None:
    """What is wrong with a kept file, as a sentence; None if it is what was written."""
    try:
        load(folder, path, sha256)
    except StorageError as error:
        return str(error)
    return None


def digest(content: bytes | memoryview) -> str:
    """SHA-256, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _checked_name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise StorageError(
            f"name {name[:80]!r}: 1 to 64 letters, digits, '_', '.' and '-' make a folder, and no "
            "'.' at the beginning"
        )
    return name
