"""What commands write: warnings, a progress bar, files that are complete or absent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from daemon.errors import ConfigError


def warn(message: str) -> None:
    """A sentence on stderr that nobody should miss."""
    Console(stderr=True, soft_wrap=True).print(
        f"warning: {message}", style="bold yellow", markup=False, highlight=False
    )


class Advance(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """So many of so many, with a few words beside the label."""


@contextmanager
def progress_bar(label: str) -> Iterator[Advance]:
    """Yields what moves the bar. Shown on stderr, and only on a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(label, total=None)

        def advance(done: int, total: int, note: str = "") -> None:
            words = f"{label}: {note}" if note else label
            progress.update(task, completed=done, total=total, description=words)

        yield advance


def make_parent(path: Path | None) -> None:
    """Make the folder of a file that will be written, before the work that it is the result of.

    Raises:
        ConfigError: nothing can be written there.
    """
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {path} ({error.strerror}): choose another") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"cannot write {path}: it is a folder, or its folder is read-only")


def write_file(path: Path, content: bytes) -> None:
    """Write a file that is complete or absent.

    Raises:
        ConfigError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path} ({error.strerror}): choose another") from error
