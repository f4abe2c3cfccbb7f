import importlib.metadata
from pathlib import Path

import pytest

from daemon.errors import ConfigError
from daemon.ownership import ForeignPackageError, refuse_foreign_daemon_package


def install_metadata(site: Path, name: str) -> None:
    """What `pip install` leaves behind to say which packages a distribution brought."""
    info = site / f"{name.replace('-', '_')}-3.1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 3.1.2\n")
    (info / "top_level.txt").write_text("daemon\n")
    (info / "RECORD").write_text("daemon/__init__.py,,\n")


def test_python_daemon_beside_us_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_metadata(tmp_path, "python-daemon")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ForeignPackageError, match="pip uninstall python-daemon") as caught:
        refuse_foreign_daemon_package()

    assert caught.value.exit_code == 78
    assert isinstance(caught.value, ConfigError)


def test_our_own_distribution_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_metadata(tmp_path, "zsad")
    monkeypatch.syspath_prepend(tmp_path)

    refuse_foreign_daemon_package()

    assert "zsad" in importlib.metadata.packages_distributions()["daemon"]


def test_a_missing_init_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.__file__", None)

    with pytest.raises(ForeignPackageError, match=r"daemon/__init__\.py is missing"):
        refuse_foreign_daemon_package()
