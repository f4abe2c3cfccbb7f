"""`zsad model` changes what a line inspects with, and refuses what would leave it unjudged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from night_models import START, thresholds

from daemon.cli.main import main
from daemon.config.storage import StorageConfig
from daemon.lock_file import only_one_in
from daemon.storage import models, repository
from daemon.storage.database import open_database, write_transaction

LINE = "line1"
Zsad = Callable[..., int]


@pytest.fixture
def config(tmp_path: Path, made: Path, migrated_file: Path) -> Path:
    """A line with the base model, calibrated, and an empty store."""
    settings = {
        "line": LINE,
        "timezone": "Europe/Berlin",
        "run_dir": "run",
        "sources": [{"endpoint": "ipc:///nobody", "mode": "bind"}],
        "cameras": {"cam1": {}},
        "categories": {"fabric": {"class_name": "woven fabric"}},
        "storage": {"url": "sqlite:///zsad.db"},
        "shifts": [{"name": "day", "start": "06:00"}],
        "model": {"checkpoint": str(made / "base"), "device": "cpu"},
        "frames": {"dir": "frames"},
        "training": {"models_dir": "models"},
    }
    path = tmp_path / "daemon.yaml"
    path.write_text(yaml.safe_dump(settings))
    shutil.copy(migrated_file, tmp_path / "zsad.db")
    return path


@pytest.fixture
def zsad(config: Path) -> Zsad:
    return lambda *words: main(["model", *map(str, words), "--config", str(config)])


def calibrate(config: Path, version: str) -> None:
    engine = open_database(StorageConfig(url="sqlite:///zsad.db"), config.parent, {})
    with write_transaction(engine) as connection:
        repository.ensure_model_version(
            connection, name=version, method="m", backbone="b", card_json="{}", now=START
        )
        repository.add_calibration(connection, thresholds(version, 0.7, 0.8))
    engine.dispose()


def trail(config: Path) -> list[str]:
    engine = open_database(StorageConfig(url="sqlite:///zsad.db"), config.parent, {})
    with engine.connect() as connection:
        found = [change.kind.value for change in models.changes(connection, LINE, START)]
    engine.dispose()
    return found


def listed(zsad: Zsad, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert zsad("list", "--json") == 0
    return json.loads(capsys.readouterr().out)["models"]


def bundle_of(made: Path, folder: Path, base: str = "base", name: str = "a") -> Path:
    from daemon.training.bundle import write_bundle
    from daemon.training.model_store import ModelStore

    store = ModelStore(folder / f"store-{name}", made / base)
    path = folder / f"{name}.tar"
    write_bundle(store, store.add(made / name), path)
    return path


def test_a_model_on_a_stick_is_imported_tried_promoted_rolled_back_and_exported(
    zsad: Zsad, config: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_of(made, tmp_path)
    (base,) = listed(zsad, capsys)
    calibrate(config, base["version"])

    assert zsad("import", bundle) == 0
    a, base = listed(zsad, capsys)
    assert (a["is_active"], base["is_active"], a["last_change"]) == (False, True, "imported")

    assert zsad("promote", a["version"]) == 2
    assert "has no thresholds for fabric" in capsys.readouterr().err
    assert zsad("try", a["version"]) == 2
    assert zsad("rollback") == 2
    assert "no earlier model" in capsys.readouterr().err

    calibrate(config, a["version"])
    assert zsad("try", a["version"], "--frames", "50") == 0
    assert listed(zsad, capsys)[0]["is_candidate"]
    assert zsad("reject", "--reason", "not today") == 0
    assert zsad("promote", a["version"], "--reason", "ok") == 0
    assert listed(zsad, capsys)[0]["is_active"]
    assert zsad("export", "active", "--out", tmp_path / "out.tar") == 0
    assert (tmp_path / "out.tar").read_bytes() == bundle.read_bytes()
    assert zsad("rollback", "--reason", "too strict") == 0
    assert listed(zsad, capsys)[1]["is_active"]
    assert zsad("list") == 0
    assert "rolled_back" in capsys.readouterr().out
    assert main(["query", "models", "--config", str(config), "--json"]) == 0
    newest = json.loads(capsys.readouterr().out)["models"][0]
    assert (newest["kind"], newest["previous"]) == ("rolled_back", base["version"])
    assert main(["query", "models", "--config", str(config)]) == 0
    assert main(["query", "nights", "--config", str(config)]) == 0
    assert "no night was due" in capsys.readouterr().out
    assert trail(config) == [
        "imported",
        "proposed",
        "rejected",
        "promoted",
        "exported",
        "rolled_back",
    ]


def test_a_model_of_another_backbone_is_refused_with_a_sentence(
    zsad: Zsad, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_of(made, tmp_path, "other_base", "other_base")

    assert zsad("import", bundle) == 2
    assert "trained on backbone" in capsys.readouterr().err
    assert len(listed(zsad, capsys)) == 1
    assert not (tmp_path / "models" / ".import" / "model").exists()


def test_what_a_killed_import_left_is_gone_with_the_next_one_and_two_do_not_meet(
    zsad: Zsad, config: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_of(made, tmp_path)
    left = tmp_path / "models" / ".import" / "model"
    (left / "golden").mkdir(parents=True)
    (left / "weights.safetensors").write_bytes(b"half of them")

    with only_one_in(left.parent, "", ""):
        assert zsad("import", bundle) == 2
    assert "another model is being imported" in capsys.readouterr().err
    assert left.exists()

    assert zsad("import", bundle) == 0
    assert not left.exists()


def test_a_line_without_a_place_for_models_says_what_to_add(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load(config.read_text())
    del settings["training"]
    config.write_text(yaml.safe_dump(settings))

    assert main(["model", "list", "--config", str(config)]) == 2
    assert "add a `training:` section" in capsys.readouterr().err


def test_an_unknown_model_is_refused(zsad: Zsad, capsys: pytest.CaptureFixture[str]) -> None:
    assert zsad("promote", "aa_clip-0123456789ab") == 2
    assert "neither in" in capsys.readouterr().err
    assert zsad("promote", "../../etc/passwd") == 2
    assert "not a model version" in capsys.readouterr().err
