import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "systemd" / "zsad.service"
EXEC = "/opt/zsad/.venv/bin/zsad"
MAX_EXPOSURE = 1.5


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists here in place of the installed one."""
    if shutil.which("systemd-analyze") is None:
        reason = "no systemd-analyze: install systemd"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    text = UNIT.read_text()
    assert EXEC in text
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(EXEC, "/bin/true"))
    return copy


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_systemd_accepts_every_line(unit: Path) -> None:
    result = analyze("verify", "--man=no", unit)

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_verify_would_show_a_wrong_line(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("Type=notify", "Type=notify-reloaded"))

    assert "notify-reloaded" in analyze("verify", "--man=no", unit).stderr


def test_exposure_is_what_the_header_says(unit: Path) -> None:
    result = analyze("security", "--offline=true", "--no-pager", unit)

    score = re.search(r"exposure level for \S+: ([0-9.]+)", result.stdout)
    assert score is not None
    assert float(score[1]) <= MAX_EXPOSURE
    assert f"{MAX_EXPOSURE} OK" in UNIT.read_text()


def test_exposure_rises_without_the_hardening(unit: Path) -> None:
    weaker = re.sub(r"^(ProtectSystem|SystemCallFilter)=.*\n", "", unit.read_text(), flags=re.M)
    unit.write_text(weaker)

    threshold = f"--threshold={MAX_EXPOSURE * 10:.0f}"
    result = analyze("security", "--offline=true", "--json=short", threshold, unit)

    assert json.loads(result.stdout)
    assert result.returncode == 1
