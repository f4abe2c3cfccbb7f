"""Whole nights on small pictures: what is learnt, and that no night leaves the line worse off."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from night_line import LINE, NightLine, Shown, fill_up, grain_line, model_of, two_product_line
from night_pictures import draw
from safetensors.torch import load_file, save

from daemon.core import base_version, with_references
from daemon.storage import job_runs, models, repository
from daemon.storage.database import write_transaction
from daemon.storage.job_runs import JobRun, JobState
from daemon.training import unseen
from daemon.training.answers import ModelAnswers
from daemon.training.job import StoppedError, run_job
from daemon.training.model_store import ModelStore
from daemon.training.night import STEPS
from daemon.training.night_end import Outcome
from daemon.training.night_work import WORK_NAME
from zsad.checkpoint import read_card
from zsad.config.coop import CoOpConfig
from zsad.config.linear_probe import LinearProbeConfig

NOW = datetime(2026, 11, 23, 1, 0, tzinfo=UTC)
OnStep = Callable[[str, int, int], None]


SOME = ["train", "ask the candidate", "propose"]
"""Steps; at all of them nights are killed in earnest below, which takes minutes."""


class Killed(BaseException):
    """Nothing of the night catches it, as nothing catches SIGKILL."""


@pytest.fixture
def line(
    tmp_path: Path, migrated_file: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[NightLine]:
    monkeypatch.setattr(unseen, "PROCEDURAL", 6)
    torch.set_num_threads(1)
    made = grain_line(tmp_path, migrated_file, small_model)
    yield made
    made.close()


def quiet(step: str, done: int, total: int) -> None:
    del step, done, total


def night(
    line: NightLine,
    *,
    days: int = 0,
    show: OnStep = quiet,
    until: datetime | None = None,
    stop: threading.Event | None = None,
) -> Outcome:
    return run_job(
        line.engine,
        line.config,
        due_utc=NOW + timedelta(days=days),
        until_utc=until,
        now=lambda: NOW + timedelta(days=days, minutes=1),
        stop=stop or threading.Event(),
        show=show,
    )


def row(line: NightLine, days: int = 0) -> JobRun:
    with line.engine.connect() as connection:
        found = job_runs.of_window(connection, LINE, NOW + timedelta(days=days))
    assert found is not None
    return found


def candidate(line: NightLine) -> str | None:
    with line.engine.connect() as connection:
        found = models.candidate(connection, LINE)
    return None if found is None else found.version


def killed_at(wanted: str) -> OnStep:
    def show(step: str, done: int, total: int) -> None:
        del done, total
        if step == wanted:
            raise Killed

    return show


def work_of(line: NightLine) -> Path:
    (folder,) = (path for path in (line.models_dir / WORK_NAME).iterdir() if path.is_dir())
    return folder


def test_a_night_that_is_killed_again_and_again_proposes_its_model(line: NightLine) -> None:
    reached: list[str] = []

    for step in SOME:
        with pytest.raises(Killed):
            night(line, show=killed_at(step))
        assert row(line).state == JobState.RUNNING  # nobody could say otherwise
        assert candidate(line) is None
    outcome = night(line, show=lambda step, done, total: reached.append(step))

    assert outcome.state == JobState.PROPOSED, outcome
    assert {"train", "ask the candidate", "thresholds"}.isdisjoint(reached)  # done before
    assert outcome.candidate == candidate(line)
    found = row(line)
    assert (found.state, found.attempts) == (JobState.PROPOSED, 1 + len(SOME))
    assert "grain is better" in found.detail
    with line.engine.connect() as connection:
        (made,) = repository.current_calibrations(connection, str(outcome.candidate))
    assert made.n_frames >= 12
    ModelStore(line.models_dir, line.config.model.checkpoint).verify(str(outcome.candidate))
    assert not [path for path in (line.models_dir / WORK_NAME).iterdir() if path.is_dir()]
    # the next night has nothing new to learn
    again = night(line, days=1)
    assert again.state == JobState.NOTHING
    assert "0 labels are new" in row(line, 1).detail


def test_a_candidate_with_nan_costs_the_night_and_leaves_nothing_behind(line: NightLine) -> None:
    with pytest.raises(Killed):
        night(line, show=killed_at("ask the active model"))
    model = work_of(line) / "model"

    _plant_nan(model)
    assert night(line).state == JobState.FAILED  # whole by its hash, and still refused
    assert "NaN" in row(line).detail
    assert candidate(line) is None
    assert not model.exists()


def test_a_damaged_candidate_is_trained_again(line: NightLine) -> None:
    with pytest.raises(Killed):
        night(line, show=killed_at("ask the active model"))
    weights = work_of(line) / "model" / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-7])

    with pytest.raises(Killed):
        night(line, show=killed_at("ask the active model"))

    assert weights.read_bytes() == whole


def test_a_night_begins_anew_where_its_recipe_was_changed(line: NightLine) -> None:
    begun = []
    for method, recipe in (
        ("linear_probe", {"synthetic": 0}),
        ("linear_probe", {"synthetic": 0, "image_penalty": 5}),
        ("coop", {"steps": 9}),  # of a method that this line does not train
    ):
        line.write_recipe(method, recipe)
        with pytest.raises(Killed):
            night(line, show=killed_at("train"))
        begun.append(work_of(line).name)

    assert begun[0] != begun[1]
    assert begun[1] == begun[2]


def test_a_candidate_is_asked_with_the_reference_bank_that_it_would_inspect_with(
    tmp_path: Path, migrated_file: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unseen, "PROCEDURAL", 4)
    torch.set_num_threads(1)
    line = grain_line(tmp_path, migrated_file, small_model, categories={"references": 4})

    with pytest.raises(Killed):
        night(line, show=killed_at("thresholds"))

    kept = (work_of(line) / "candidate.json").read_bytes()
    version = ModelAnswers.model_validate_json(kept).versions["grain"]
    (bank,) = (line.root / "references").iterdir()
    assert base_version(version) in bank.name
    assert version != with_references(base_version(version), None)
    line.close()


def _plant_nan(model: Path) -> None:
    """Weights with a NaN, under a hash that fits them."""
    import hashlib

    state = load_file(model / "weights.safetensors")
    state["image_weight"][0, 0] = torch.nan
    content = save(state)
    (model / "weights.safetensors").write_bytes(content)
    card = json.loads((model / "card.json").read_text())
    card["weights_sha256"] = hashlib.sha256(content).hexdigest()
    (model / "card.json").write_text(json.dumps(card))


def test_a_full_disk_costs_the_night_and_is_told(line: NightLine) -> None:
    with pytest.raises(Killed):
        night(line, show=killed_at("ask the active model"))
    (work_of(line) / ".active.json").symlink_to("/dev/full")

    outcome = night(line)

    assert outcome.state == JobState.FAILED
    assert "No space left on device" in row(line).detail
    assert candidate(line) is None
    assert not [path for path in (line.models_dir / WORK_NAME).iterdir() if path.is_dir()]


def test_a_fault_costs_the_night_and_the_log_says_where(
    line: NightLine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(*_: object) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr("daemon.training.night.train_candidate", break_down)

    assert night(line).state == JobState.FAILED

    assert row(line).detail.startswith("the device is gone; if memory ran short: training.memory")
    assert "in break_down" in caplog.text


def test_a_night_ends_with_its_window_and_says_that_it_goes_on(line: NightLine) -> None:
    outcome = night(line, until=NOW)

    assert outcome.state == JobState.KILLED
    assert "its window ended" in row(line).detail


def test_a_night_ends_when_it_is_told_to(line: NightLine) -> None:
    stop = threading.Event()
    stop.set()

    assert night(line, stop=stop).state == JobState.KILLED


def test_only_one_night_runs_at_a_time(line: NightLine) -> None:
    refused: list[Exception] = []

    def another(step: str, done: int, total: int) -> None:
        del step, done, total
        try:
            night(line, days=1)
        except Exception as error:  # noqa: BLE001 - looked at below
            refused.append(error)
        raise StoppedError("enough")

    night(line, show=another)

    assert "another night is running" in str(refused[0])


def test_without_both_labels_a_night_does_nothing_and_says_why(
    tmp_path: Path, migrated_file: Path
) -> None:
    line = NightLine(tmp_path / "line", {"grain": "grain"}, database=migrated_file)
    ok = draw(tmp_path / "pictures", 9, is_ng=False, seed=1)
    line.label("grain", [Shown(file, False) for file in ok])

    outcome = night(line)

    assert outcome.state == JobState.NOTHING
    assert "no category has frames labelled OK and NG" in outcome.detail
    line.close()


def test_a_product_that_would_get_worse_stays_as_it_was_while_another_gets_better(
    tmp_path: Path, migrated_file: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unseen, "PROCEDURAL", 4)
    line = two_product_line(tmp_path, migrated_file, small_model)

    outcome = night(line)

    assert outcome.state == JobState.PROPOSED, outcome
    store = ModelStore(line.models_dir, small_model)
    card = read_card(store.path_of(str(outcome.candidate)))
    assert isinstance(card.method, LinearProbeConfig)
    assert card.method.products == ("grain",)
    report = json.loads(str(outcome.report_json))
    assert any("noise stays as it was" in problem for problem in report["problems"])
    line.close()


@pytest.mark.soak
def test_a_model_that_can_be_trained_goes_on_with_its_own_method(
    tmp_path: Path, migrated_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unseen, "PROCEDURAL_SHARED", 4)
    torch.set_num_threads(1)
    checkpoint = model_of(CoOpConfig(context_tokens=2), tmp_path / "coop")
    line = grain_line(tmp_path, migrated_file, checkpoint)

    outcome = night(line)

    assert outcome.state in (JobState.PROPOSED, JobState.REFUSED), outcome
    assert str(outcome.candidate).startswith("coop-")
    assert outcome.candidate != ModelStore(line.models_dir, checkpoint).base_version()
    report = json.loads(str(outcome.report_json))
    assert (report["recipe"]["method"], report["recipe"]["steps"]) == ("coop", 3)
    assert any("only procedural pictures" in problem for problem in report["problems"])
    line.close()


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_sigkill_at_every_step_leaves_the_line_as_it_was(
    tmp_path: Path, migrated_file: Path, small_model: Path
) -> None:
    line = two_product_line(tmp_path, migrated_file, small_model)
    child = Path(__file__).with_name("killed_child.py")

    for step in STEPS:
        killed = subprocess.run([sys.executable, str(child), str(line.file), step], check=False)
        assert killed.returncode == -signal.SIGKILL, step
        assert candidate(line) is None
        with line.engine.connect() as connection:
            assert models.active(connection, LINE) is None
    whole = [sys.executable, str(child), str(line.file), "none"]
    done = subprocess.run(whole, check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["proposed"]
    assert row(line).attempts == 1 + len(STEPS)
    line.close()


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("step", ["snapshot", "ask the active model", "golden images", "propose"])
def test_a_disk_that_fills_at_a_step_costs_the_night_and_the_next_one_starts_clean(
    tmp_path: Path, migrated_file: Path, small_model: Path, step: str, small_disk: Path
) -> None:
    line = grain_line(tmp_path, migrated_file, small_model, models_dir=str(small_disk))
    filler = small_disk / "filler"

    def fill(reached: str, done: int, total: int) -> None:
        del done, total
        if reached == step and not filler.exists():
            fill_up(filler)

    outcome = night(line, show=fill)

    assert outcome.state == JobState.FAILED, outcome
    assert "No space left on device" in row(line).detail
    assert candidate(line) is None
    assert not [path for path in (small_disk / WORK_NAME).iterdir() if path.is_dir()]
    assert ModelStore(small_disk, small_model).models() == []
    filler.unlink()
    assert night(line, days=1).state == JobState.PROPOSED
    line.close()


@pytest.mark.soak
def test_the_night_after_a_promotion_goes_on_from_the_promoted_model(
    line: NightLine, tmp_path: Path
) -> None:
    first = str(night(line).candidate)
    with write_transaction(line.engine) as connection:
        models.promote(
            connection, LINE, first, instead_of=line.base_version, author="ana", reason="", now=NOW
        )
    for is_ng in (False, True):
        more = draw(tmp_path / "more", 9, is_ng=is_ng, seed=9)
        line.label("grain", [Shown(file, is_ng) for file in more])

    outcome = night(line, days=1)

    assert outcome.state in (JobState.PROPOSED, JobState.REFUSED), outcome
    assert outcome.candidate not in (None, first)
    assert outcome.report_json is not None
    findings = json.loads(outcome.report_json)["findings"]
    assert any(found["text"].startswith("procedural parts: I-AUROC +0.000") for found in findings)
