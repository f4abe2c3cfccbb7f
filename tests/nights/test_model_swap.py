"""Another model takes over between two batches; whatever goes wrong, the old one goes on."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from night_models import LINE, NightLine, config_of, said, save_model, thresholds
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from daemon.config.categories import CategoryConfig
from daemon.config.storage import StorageConfig
from daemon.core import Inspection, Severity, Verdict
from daemon.errors import StorageError
from daemon.inspection.loaded_model import LoadedModel
from daemon.storage import models, repository
from daemon.storage.database import open_database, write_transaction
from daemon.training.model_store import ModelStore
from zsad.checkpoint import CheckpointCard
from zsad.predictor import load_predictor

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def line(tmp_path: Path, made: Path, line_engine: Engine) -> Iterator[NightLine]:
    """A running line whose base model calls nothing NG, and a stored model `a`."""
    line = NightLine(tmp_path, line_engine, config_of(tmp_path, made / "base"))
    line.a = line.store.add(made / "a")
    line.base = line.store.base_version()
    line.calibrate(line.base, 0.7, 0.8)
    line.calibrate(line.a, 0.6, 0.9)
    line.start()
    yield line
    line.close()


def promote(line: NightLine, version: str, instead_of: str) -> None:
    with write_transaction(line.engine) as connection:
        models.promote(
            connection,
            LINE,
            version,
            instead_of=instead_of,
            author="ana",
            reason="better",
            now=line.now,
        )


def test_a_promoted_model_takes_over_under_load_and_every_row_belongs_together(
    line: NightLine, made: Path
) -> None:
    stop = threading.Event()

    def inspect_on() -> None:
        while not stop.is_set() or len(line.told) % 4:
            line.turn(range(line.seq % 16, line.seq % 16 + 4), idle=False)

    thread = threading.Thread(target=inspect_on)
    thread.start()
    try:
        while len(line.told) < 20:
            stop.wait(0.01)
        promote(line, line.a, line.base)
        while line.slot.version != line.a:
            line.look()
            stop.wait(0.02)
        seen = len(line.told)
        while len(line.told) < seen + 20:
            stop.wait(0.01)
    finally:
        stop.set()
        thread.join()
    line.look()

    assert [told.info.frame_id.seq for told in line.told] == list(range(line.seq))
    assert {told.verdict for told in line.told} == {Verdict.OK}
    versions = [told.model_version for told in line.told]
    assert versions == sorted(versions, key=[line.base, line.a].index)
    predictors = {line.base: load_predictor(made / "base", "cpu")}
    predictors[line.a] = load_predictor(made / "a", "cpu")
    for told in (*line.told[:12], *line.told[-12:]):
        assert told.calibration is not None
        assert told.calibration.model_version == told.model_version
        wanted = said(predictors[told.model_version], seed_of(told))
        assert told.pred_score == pytest.approx(wanted, abs=1e-5)
    status = line.health.snapshot(0.0, line.now)
    assert status.model_version == line.a
    assert any(note.startswith("model_swapped") for note in line.notes)


def seed_of(told: Inspection) -> int:
    first = told.info.frame_id.seq // 4 * 4
    return first % 16 + told.info.frame_id.seq % 4


def test_a_promoted_model_that_is_damaged_never_inspects_and_the_database_says_so(
    line: NightLine,
) -> None:
    promote(line, line.a, line.base)
    weights = line.store.path_of(line.a) / "weights.safetensors"
    weights.write_bytes(b"not weights at all")

    line.look()
    line.look()
    (inspection,) = line.turn([1])

    assert inspection.model_version == line.base
    with line.engine.connect() as connection:
        active = models.active(connection, LINE)
    assert active is not None
    assert active.version == line.base
    (alarm,) = line.events(Severity.ALARM)
    assert alarm.startswith("model_bad")
    assert "damaged" in alarm


def test_a_damaged_candidate_is_rejected_and_not_proposed_again(line: NightLine) -> None:
    golden = line.store.path_of(line.a) / "golden" / "000.png"
    golden.write_bytes(b"not a picture")
    with write_transaction(line.engine) as connection:
        models.propose(connection, LINE, line.a, 20, "night", "better", line.now)

    line.look()
    line.look()

    with line.engine.connect() as connection:
        assert models.candidate(connection, LINE) is None
    (warning,) = line.events(Severity.WARNING)
    assert "SHA-256" in warning
    with write_transaction(line.engine) as connection, pytest.raises(StorageError, match="again"):
        models.propose(connection, LINE, line.a, 20, "night", "better", line.now)


def test_a_crash_between_the_promotion_and_the_swap_starts_with_the_promoted_model(
    line: NightLine, made: Path
) -> None:
    promote(line, line.a, line.base)

    again = NightLine(line.folder, line.engine, line.config)
    again.start()
    (inspection,) = again.turn([1])

    assert inspection.model_version == line.a
    assert inspection.calibration is not None
    assert inspection.calibration.model_version == line.a
    again.close()


@pytest.mark.parametrize("is_previous_there", [True, False])
def test_a_start_with_a_damaged_model_takes_the_one_before_with_an_alarm(
    line: NightLine, made: Path, is_previous_there: bool
) -> None:
    b = line.store.add(made / "b")
    promote(line, b, line.base)
    promote(line, line.a, b)
    (line.store.path_of(line.a) / "card.json").unlink()
    if not is_previous_there:
        shutil.rmtree(line.store.path_of(b))

    again = NightLine(line.folder, line.engine, line.config)
    again.start()

    expected = b if is_previous_there else line.base
    assert again.slot.version == expected
    with line.engine.connect() as connection:
        assert models.active(connection, LINE).version == expected
    (alarm,) = again.events(Severity.ALARM)
    assert "model_bad" in alarm
    assert expected in alarm
    again.close()


def test_a_database_that_takes_nothing_changes_nothing_and_is_asked_again(
    line: NightLine, tmp_path: Path
) -> None:
    promote(line, line.a, line.base)
    url = StorageConfig(url=f"sqlite:///{line.engine.url.database}")
    impatient = open_database(url, tmp_path, {}, busy_timeout_s=0.05)
    line.keeper._engine = impatient
    line.look()

    with write_transaction(line.engine), pytest.raises(OperationalError, match="locked"):
        line.look()
    assert line.turn([1])[0].model_version == line.base

    line.look_until(lambda: line.slot.version == line.a, "the swap")
    assert line.turn([1])[0].model_version == line.a
    impatient.dispose()


def test_old_models_go_and_what_may_be_needed_stays(line: NightLine, made: Path) -> None:
    backbone = line.slot.model.predictor.detector.backbone
    candidate, gone = (
        line.store.add(folder)
        for folder in (line.folder / "c", line.folder / "d")
        if save_model(folder, backbone, 0.1 if folder.name == "c" else 0.2)
    )
    b = line.store.add(made / "b")
    line.keeper._training = line.config.training.model_copy(update={"keep_versions": 1})
    promote(line, line.a, line.base)
    with write_transaction(line.engine) as connection:
        models.propose(connection, LINE, candidate, 20, "night", "better", line.now)
    line.look_until(lambda: line.slot.version == line.a, "the swap")
    line.look()

    assert {model.version for model in line.store.models()} == {line.a, b, candidate}
    removed = line.query("SELECT version, author FROM model_change WHERE kind = 'removed'")
    assert removed == [(gone, "daemon")]


def test_a_model_that_is_put_away_while_it_loads_is_closed(
    line: NightLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, begun, go_on = [], threading.Event(), threading.Event()
    verify = line.store.verify

    def slowly(version: str) -> CheckpointCard:
        begun.set()
        go_on.wait(10)
        return verify(version)

    monkeypatch.setattr(line.store, "verify", slowly)
    monkeypatch.setattr(LoadedModel, "close", lambda model: closed.append(model.version))
    loader = line.keeper._loader
    assert loader.get(line.a, line.config) is None
    assert begun.wait(10)
    assert loader.get(line.base, line.config) is None

    loader.put_away_all_but(set())
    go_on.set()

    loader._thread.submit(lambda: None).result(timeout=10)
    assert closed == [line.a], "the other one was never begun"


def test_a_person_who_changes_their_mind_before_the_swap_gets_the_last_word(
    line: NightLine, made: Path
) -> None:
    b = line.store.add(made / "b")
    line.calibrate(b, 0.7, 0.8)
    promote(line, line.a, line.base)
    line.look()
    line.look()
    promote(line, b, line.a)
    line.look()
    line.turn()

    assert line.slot.version == line.a, "it was asked for first"
    line.look_until(lambda: line.slot.version == b, "the second swap")
    (inspection,) = line.turn([1])
    assert inspection.model_version == b
    line.slot.model.references._builder.submit(lambda: None).result(timeout=10)


def test_a_category_with_a_model_of_its_own_is_asked_of_no_candidate(
    tmp_path: Path, made: Path, line_engine: Engine
) -> None:
    config = config_of(tmp_path, made / "base")
    screw = CategoryConfig(class_name="metal screw", checkpoint=made / "b")
    config = config.model_copy(update={"categories": {**config.categories, "screw": screw}})
    line = NightLine(tmp_path, line_engine, config)
    version, base = line.store.add(made / "a"), line.store.base_version()
    line.calibrate(base, 0.7, 0.8)
    line.calibrate(version, 0.6, 0.9)
    with write_transaction(line_engine) as connection:
        # from the time when the line's model inspected it
        repository.add_calibration(connection, thresholds(base, 0.7, 0.8, "screw", screw.recipe))
        models.propose(connection, LINE, version, 20, "night", "better", line.now)
    line.start()

    line.look()
    line.look()

    assert line.shadow.version == version
    line.close()
    kept = ModelStore(line.store.folder, made / "base", [line.store.path_of(version)])
    assert kept.prune((), 0) == []
    assert line.store.prune((), 0) == [version]
