"""A candidate scores live frames in idle moments, and becomes active only if that looks right."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from night_models import LINE, NightLine, config_of, save_model
from sqlalchemy import Engine

from daemon.config.categories import CategoryConfig
from daemon.core import Image, Severity, ShadowScore, Verdict
from daemon.inspection.shadow import ONE_OF
from daemon.storage import models
from daemon.storage.batch import Batch, Run
from daemon.storage.database import write_transaction
from daemon.storage.spool_record import decode, encode
from zsad.anomaly_map import AnomalyMap

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def line(tmp_path: Path, made: Path, line_engine: Engine) -> Iterator[NightLine]:
    line = NightLine(tmp_path, line_engine, config_of(tmp_path, made / "base"))
    line.a = line.store.add(made / "a")
    line.base = line.store.base_version()
    line.calibrate(line.base, 0.7, 0.8)
    line.start()
    yield line
    line.close()


def propose(line: NightLine, wanted: int = 20) -> None:
    with write_transaction(line.engine) as connection:
        models.propose(connection, LINE, line.a, wanted, "night", "better by 0.1", line.now)
    line.look()
    line.look()


def run_frames(line: NightLine, frames: int) -> None:
    for seed in range(frames):
        line.turn([seed % 8])
        line.turn()
    line.commit()


def scores(line: NightLine) -> list[ShadowScore]:
    return [item for item in line.stored if isinstance(item, ShadowScore)]


def test_a_candidate_whose_verdicts_agree_is_promoted_by_itself(line: NightLine) -> None:
    line.calibrate(line.a, 0.7, 0.8)
    propose(line)
    run_frames(line, 25)

    line.look_until(lambda: line.slot.version == line.a, "the promotion")

    kinds = [kind for (kind,) in line.query("SELECT kind FROM model_change ORDER BY id")]
    assert kinds == ["proposed", "promoted"]
    ((reason, author),) = line.query(
        "SELECT reason, author FROM model_change WHERE kind='promoted'"
    )
    assert author == "shadow"
    assert "fabric: NG 0.00%" in reason


def test_a_candidate_that_rejects_what_the_active_model_passes_is_rejected(line: NightLine) -> None:
    line.calibrate(line.a, 0.1, 0.2)
    propose(line, wanted=60)
    run_frames(line, 60)
    line.look()

    with line.engine.connect() as connection:
        assert models.candidate(connection, LINE) is None
        assert models.active(connection, LINE) is None
    (warning,) = line.events(Severity.WARNING)
    assert "NG 100.00% (60 of 60 frames), before 0.00%" in warning


def test_a_candidate_that_says_nan_is_rejected(line: NightLine) -> None:
    line.calibrate(line.a, 0.7, 0.8)
    propose(line, wanted=5)
    rival = line.shadow._rival
    assert rival is not None

    def says_nan(images: list[Image], products: object) -> list[tuple[float, AnomalyMap]]:
        return [(float("nan"), AnomalyMap.of(np.zeros((4, 4), np.float32)))]

    rival.model.infer = says_nan
    run_frames(line, 6)
    line.look()

    assert "no number in [0, 1] on 6 of 6 frames" in line.events(Severity.WARNING)[0]
    assert line.query(
        "SELECT shadow_verdict, count(shadow_score) FROM shadow_score GROUP BY 1"
    ) == [("ERROR", 0)]


def test_with_promote_manual_the_candidate_waits_and_says_so(line: NightLine) -> None:
    line.keeper._trial._training = line.config.training.model_copy(update={"promote": "manual"})
    line.calibrate(line.a, 0.7, 0.8)
    propose(line)
    run_frames(line, 25)
    line.look()
    run_frames(line, 25)
    line.look()

    assert line.slot.version == line.base
    (note,) = line.events(Severity.WARNING)
    assert f"zsad model promote {line.a}" in note
    status = line.health.snapshot(0.0, line.now).model
    assert status is not None
    assert status.waits_for is not None
    assert status.shadow_frames >= 20
    before = status.shadow_frames
    run_frames(line, 25)
    line.look()
    assert line.health.snapshot(0.0, line.now).model.shadow_frames == before, "it has seen enough"
    assert len(line.events(Severity.WARNING)) == 1, "it is said once"


def test_a_candidate_without_thresholds_waits_and_says_what_to_do(line: NightLine) -> None:
    propose(line)
    run_frames(line, 25)
    line.look()

    assert line.slot.version == line.base
    (note,) = line.events(Severity.WARNING)
    assert f"`zsad calibrate --model {line.a} --category NAME IMAGES`" in note
    line.calibrate(line.a, 0.7, 0.8)
    line.look()
    run_frames(line, 25)
    line.look_until(lambda: line.slot.version == line.a, "the promotion")


def test_a_candidate_compared_with_a_model_that_is_gone_is_rejected(
    line: NightLine, made: Path
) -> None:
    line.calibrate(line.a, 0.7, 0.8)
    propose(line)
    backbone = line.slot.model.predictor.detector.backbone
    b = save_model(line.folder / "b", backbone, 0.01)
    line.store.add(line.folder / "b")
    with write_transaction(line.engine) as connection:
        models.promote(
            connection,
            LINE,
            b,
            instead_of=line.base,
            author="ana",
            reason="I know",
            now=line.now,
        )
    line.look_until(lambda: line.slot.version == b, "the swap")
    line.look()  # notes it
    line.look()

    with line.engine.connect() as connection:
        assert models.candidate(connection, LINE) is None
    assert "became active meanwhile" in line.events(Severity.WARNING)[0]


def test_it_scores_nothing_while_frames_wait_and_keeps_only_the_newest(line: NightLine) -> None:
    line.calibrate(line.a, 0.7, 0.8)
    propose(line)

    for seed in range(6):
        line.turn([seed], idle=False)
    assert scores(line) == []
    for _ in range(10):
        line.turn()

    assert [score.frame_id.seq for score in scores(line)] == [5, 4, 3, 2]


def test_on_a_line_that_is_never_idle_one_frame_of_fifty_is_scored_and_the_trial_ends(
    line: NightLine,
) -> None:
    line.calibrate(line.a, 0.7, 0.8)
    propose(line, wanted=3)
    line.waiting = True

    for seed in range(3 * ONE_OF + 1):
        line.turn([seed % 8], idle=False)
    frames = [score.frame_id.seq for score in scores(line)]
    line.commit()
    line.waiting = False

    assert frames == [ONE_OF - 1, 2 * ONE_OF - 1, 3 * ONE_OF - 1]
    line.look_until(lambda: line.slot.version == line.a, "the promotion")


def test_a_frame_that_comes_in_waits_for_one_pass_of_a_frame_of_many_tiles(
    line: NightLine,
) -> None:
    line.calibrate(line.a, 0.7, 0.8)
    propose(line)
    line.turn([1])
    rival = line.shadow._rival
    assert rival is not None
    many = CategoryConfig(class_name="woven fabric", min_defect_px=2, tiling="auto")
    seen = line.shadow._waiting.pop()
    line.shadow._waiting.append(replace(seen, policy=many))
    assert rival.model.passes(seen.frame.image, many) > 1
    passes = []
    line.shadow._beat = lambda: passes.append(1)

    line.waiting = True
    made = rival.book.get("fabric", seen.policy)
    assert made is not None
    rival.book.replace([replace(made, recipe=many.recipe)])
    line.shadow.step(is_idle=True)

    assert len(passes) == 1
    assert scores(line) == []
    assert line.shadow.counters.given_up == 1

    line.shadow._waiting.append(replace(seen, policy=many))
    line.shadow._passed_over = ONE_OF
    line.shadow.step(is_idle=False)
    assert len(scores(line)) == 1, "it was passed over often enough"


def test_a_shadow_score_survives_the_spool(line: NightLine) -> None:
    line.calibrate(line.a, 0.7, 0.8)
    propose(line)
    run_frames(line, 0)
    line.turn([1])
    line.turn()
    (score,) = scores(line)
    failed = replace(score, shadow_verdict=Verdict.ERROR, shadow_score=None)
    batch = Batch(Run(LINE, line.now), 1, (score, failed))

    assert decode(encode(batch)) == batch
