import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import daemon

ROOT = Path(__file__).parents[1]

PLANTED = {
    "daemon/inspection/decision.py": "import torch",
    "daemon/inspection/loop.py": "import daemon.storage.tables",
    "daemon/ingest/publisher.py": "import pydantic",
    "daemon/undeclared.py": "",
    "zsad/scoring.py": "import zmq",
    "zsad/losses.py": "import daemon.core",
    "zsad/layers.py": "import zsad.methods",
}
"""Import lines that break every contract at least once."""


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_imports_keep_every_contract() -> None:
    result = lint_imports(ROOT)

    assert result.returncode == 0, result.stdout + result.stderr


def test_planted_imports_break_every_contract(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("daemon", "zsad"):
        shutil.copytree(
            ROOT / package,
            tmp_path / package,
            ignore=lambda folder, names: [
                name
                for name in names
                if not name.endswith(".py") and not (Path(folder) / name).is_dir()
            ],
        )
    for name, line in PLANTED.items():
        with (tmp_path / name).open("a") as file:
            file.write(f"\n{line}\n")

    result = lint_imports(tmp_path)

    verdicts = [line for line in result.stdout.splitlines() if line.endswith((" KEPT", " BROKEN"))]
    assert result.returncode == 1, result.stdout + result.stderr
    assert len(verdicts) == 6
    assert [line for line in verdicts if line.endswith(" KEPT")] == []


def test_daemon_is_this_checkout_and_nobody_elses() -> None:
    assert daemon.__file__ is not None
    assert Path(daemon.__file__).parents[1] == ROOT
    assert set(importlib.metadata.packages_distributions().get("daemon", [])) <= {"zsad"}
