"""A line with stored frames, and a folder that keeps whole frames."""

import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from night_frames import LINE, NOW, kept, register
from own_disk import mounted
from sqlalchemy import Engine

from daemon.config.storage import StorageConfig
from daemon.core import Inspection, Label, LabelVerdict
from daemon.storage import labels, repository, revision
from daemon.storage.database import open_database, write_transaction


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def frames_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with the newest schema and a model version, to be copied."""
    folder = tmp_path_factory.mktemp("migrated")
    engine = open_database(StorageConfig(url="sqlite:///zsad.db"), folder, {})
    revision.upgrade(engine)
    register(engine)
    engine.dispose()
    return folder / "zsad.db"


@pytest.fixture(params=["sqlite"])
def line_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A line's database; on SQLite, or where a test is marked BOTH on PostgreSQL too."""
    if request.param == "postgresql":
        engine = request.getfixturevalue("postgres_engine")
        register(engine)
        yield engine
        return
    shutil.copy(request.getfixturevalue("migrated_file"), tmp_path)
    engine = open_database(StorageConfig(url="sqlite:///zsad.db"), tmp_path, {})
    yield engine
    engine.dispose()


Store = Callable[..., None]


@pytest.fixture
def store(line_engine: Engine, frames_dir: Path) -> Store:
    """Stores inspections, with their files unless `keep` says otherwise."""

    def store_all(*made: Inspection, keep: bool = True) -> None:
        files = [kept(one, frames_dir) for one in made] if keep else []
        with write_transaction(line_engine) as connection:
            repository.add_results(connection, LINE, [*made, *files])

    return store_all


@pytest.fixture
def say(line_engine: Engine) -> Callable[..., None]:
    """Labels the inspection of a number."""

    def say_of(inspection_id: int, verdict: str, mask_png: bytes | None = None) -> None:
        label = Label(inspection_id, LabelVerdict(verdict), "ana", NOW, "cli", mask_png=mask_png)
        with write_transaction(line_engine) as connection:
            labels.add_labels(connection, LINE, [label])

    return say_of


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders base, a and b, a model each on one tiny backbone; other_base is on another."""
    from night_models import save_backbone, save_model  # torch, which most nights do not need

    from zsad.backbone_loading import load_backbone

    folder = tmp_path_factory.mktemp("made")
    backbone = load_backbone(save_backbone(folder / "backbone"))
    for name, temperature in (("base", 0.05), ("a", 0.5), ("b", 0.01)):
        save_model(folder / name, backbone, temperature)
    other = load_backbone(save_backbone(folder / "other_backbone", seed=8))
    save_model(folder / "other_base", other, 0.05)
    return folder


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain CLIP scoring on the compact backbone at a side of 96 pixels: a tenth of the time."""
    from night_line import model_of

    from zsad.config.clip_zero_shot import CLIPZeroShotConfig

    return model_of(CLIPZeroShotConfig(), tmp_path_factory.mktemp("small"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 32 MiB; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder, "-t", "tmpfs", "-o", "size=32m", "tmpfs"):
        yield folder
