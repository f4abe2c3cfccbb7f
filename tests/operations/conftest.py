from collections.abc import Callable
from pathlib import Path

import pytest

MINIMAL = """\
line: L1
timezone: Europe/Berlin
run_dir: run
sources:
  - endpoint: tcp://127.0.0.1:5555
cameras:
  cam1:
categories:
  fabric: {class_name: woven fabric}
storage:
  url: sqlite:///results.db
shifts:
  - name: early
    start: 06:00
  - name: late
    start: 18:00
"""

WriteConfig = Callable[..., Path]


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    """Writes the minimal configuration with pairs of texts replaced, or another text."""

    def write(*replacements: tuple[str, str], text: str = MINIMAL) -> Path:
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "daemon.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write
