"""What the gate looks at, from what both models said."""

import json
from datetime import UTC, datetime
from pathlib import Path

from daemon.config.categories import CategoryConfig
from daemon.config.night_recipes import default_recipe
from daemon.core import Calibration, LabelVerdict
from daemon.training.answers import Answer, ModelAnswers
from daemon.training.evidence import evidence_of, report_of, unmeasured
from daemon.training.gate import judge
from daemon.training.snapshot import Snapshot, SnapshotItem
from daemon.training.thresholds import CategoryThresholds, Thresholds, same_scores
from daemon.training.unseen import UnseenSet

NOW = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)
FABRIC = CategoryConfig(class_name="woven fabric")
CATEGORIES = {"fabric": FABRIC, "twill": FABRIC}
RECIPE = default_recipe("coop")
VERDICTS = [LabelVerdict.OK] * 3 + [LabelVerdict.NG] * 3


def calibration(category: str, ng_threshold: float) -> Calibration:
    return Calibration(category, "m-1", 0.3, ng_threshold, 0.5, 12, 0.05, 0.01, False, "test", NOW)


def items() -> list[SnapshotItem]:
    return [
        SnapshotItem(
            inspection_id=number,
            category="fabric",
            group_key=f"part:{number}",
            is_held_out=True,
            frame=Path(f"/frames/{number}.jpg"),
            verdict=verdict,
            defect=None,
            mask_png=None,
        )
        for number, verdict in enumerate(VERDICTS)
    ]


def answers(scores: list[float], fingerprint: float) -> ModelAnswers:
    outlines = [None, None, None, 0.9, None, 0.7]
    return ModelAnswers(
        version="m-1",
        versions=dict.fromkeys(CATEGORIES, "m-1"),
        held_out={
            number: Answer(score=score, peak=score, outline=outline)
            for number, (score, outline) in enumerate(zip(scores, outlines, strict=True))
        },
        unseen={"screws": (0.1, 0.9)},
        fingerprints={"fabric": (fingerprint,), "twill": (0.5,)},
    )


ACTIVE = answers([0.2, 0.7, 0.3, 0.4, 0.5, 0.6], 0.1)
CANDIDATE = answers([0.1, 0.2, 0.1, 0.8, 0.9, 0.7], 0.2)
UNSEEN = UnseenSet("screws", "screw", (False, True), lambda number: None)  # type: ignore[arg-type,return-value]


def test_scores_outlines_and_rejects_stand_side_by_side() -> None:
    made = CategoryThresholds(calibration=calibration("fabric", 0.15))
    thresholds = Thresholds(categories={"fabric": made, "twill": made})

    evidence = evidence_of(
        items(),
        [UNSEEN],
        ACTIVE,
        CANDIDATE,
        {"fabric": calibration("fabric", 0.65)},
        thresholds,
        CATEGORIES,
        None,
    )

    fabric, screws = evidence.sets  # twill has no labels
    assert fabric.is_defective == (False, False, False, True, True, True)
    assert fabric.candidate == (0.1, 0.2, 0.1, 0.8, 0.9, 0.7)
    assert fabric.active_outline == (0.9, 0.7)
    assert fabric.active_rejects == (False, True, False)
    assert fabric.candidate_rejects == (False, True, False)
    assert (screws.kind, screws.active) == ("unseen", (0.1, 0.9))


def test_a_category_that_changes_unmeasured_is_told() -> None:
    made = CategoryThresholds(problem="too few images")
    thresholds = Thresholds(categories={"fabric": made, "twill": made})
    args = (items(), [UNSEEN], ACTIVE, CANDIDATE, {}, thresholds, CATEGORIES, None)
    evidence = evidence_of(*args)

    assert same_scores(ACTIVE, CANDIDATE, CATEGORIES) == {"twill"}
    assert unmeasured(evidence, CATEGORIES, {"twill"}) == ()
    (sentence,) = unmeasured(evidence, CATEGORIES, set())
    assert sentence.startswith("twill: ")
    snapshot = Snapshot(1, "L1", NOW, "0" * 64, (), ("a side without NG",))
    report = json.loads(report_of(judge(evidence, margin=0.02), snapshot, RECIPE, [sentence]))
    assert report["problems"] == ["a side without NG", sentence]
    assert report["recipe"] == RECIPE.model_dump()
    assert "no thresholds for the candidate: too few images" in report["findings"][0]["text"]
