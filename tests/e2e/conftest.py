"""A configured line for each test; whatever runs at the end is killed."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_process import Line


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    """A line with two cameras on one socket; whatever runs at the end is killed."""
    # A Unix socket's path may have 107 characters; pytest's folders are longer.
    with tempfile.TemporaryDirectory(prefix="zsad-") as sockets:
        line = Line(tmp_path, Path(sockets))
        try:
            yield line
        finally:
            if line.process is not None:
                line.process.kill()
                line.process.wait(timeout=10)
