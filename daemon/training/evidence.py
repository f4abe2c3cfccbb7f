"""Joins what both models said into what the gate looks at, and its answer into a report.

Pure: everything was asked before.
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from daemon.config.categories import CategoryConfig
from daemon.config.night_recipes import NightRecipe
from daemon.core import Calibration, LabelVerdict
from daemon.training.answers import Answer, ModelAnswers
from daemon.training.gate import Evidence, Judgement, Measured
from daemon.training.snapshot import Snapshot, SnapshotItem
from daemon.training.thresholds import Thresholds
from daemon.training.unseen import UnseenSet


def evidence_of(
    held_out: Sequence[SnapshotItem],
    unseen: Sequence[UnseenSet],
    active: ModelAnswers,
    candidate: ModelAnswers,
    in_force: Mapping[str, Calibration],
    thresholds: Thresholds,
    categories: Mapping[str, CategoryConfig],
    golden: str | None,
) -> Evidence:
    """The gate's input.

    Args:
        held_out: Items of configured categories.
        in_force: The active model's thresholds; a category without is LEARNING and rejects nothing.
        golden: Why the candidate's golden images do not reproduce.
    """
    sets = []
    for name, frames in _by_category(held_out, active, candidate, categories).items():
        limit = in_force[name].ng_threshold if name in in_force else math.inf
        made = thresholds.categories[name].calibration
        new_limit = math.inf if made is None else made.ng_threshold
        sound = [frame for frame in frames if not frame.is_ng]
        measured = replace(
            _of_category(name, frames),
            active_rejects=tuple(frame.before.score >= limit for frame in sound),
            candidate_rejects=tuple(frame.after.score >= new_limit for frame in sound),
        )
        sets.append(measured)
    sets += [
        Measured(
            name=found.name,
            kind="unseen",
            is_defective=found.is_defective,
            active=active.unseen[found.name],
            candidate=candidate.unseen[found.name],
        )
        for found in unseen
    ]
    return Evidence(sets=tuple(sets), uncalibrated=thresholds.problems, golden=golden)


def measured_categories(
    held_out: Sequence[SnapshotItem],
    active: ModelAnswers,
    candidate: ModelAnswers,
    categories: Mapping[str, CategoryConfig],
) -> list[Measured]:
    """Held-out sets alone, before there are thresholds: nothing rejects."""
    found = []
    for name, frames in _by_category(held_out, active, candidate, categories).items():
        none = (False,) * sum(not frame.is_ng for frame in frames)
        measured = _of_category(name, frames)
        found.append(replace(measured, active_rejects=none, candidate_rejects=none))
    return found


def unmeasured(
    evidence: Evidence, categories: Iterable[str], alike: Collection[str]
) -> tuple[str, ...]:
    """A sentence for each category that changes without labels that could show how.

    Args:
        alike: Categories that both models score the same.
    """
    measured = {
        found.name
        for found in evidence.sets
        if found.kind == "held_out" and found.n_sound and found.n_defective
    }
    return tuple(
        f"{name}: the candidate scores it differently (shared weights, or a class_name shared with "
        "a labelled product), and no frames labelled OK and NG are held out that could show "
        "whether better: its new thresholds and the live frames guard it"
        for name in categories
        if name not in measured and name not in alike
    )


def report_of(
    judgement: Judgement, snapshot: Snapshot, recipe: NightRecipe, unmeasured: Sequence[str]
) -> str:
    """What decided, as JSON for `job_run`."""
    return json.dumps(
        {
            "promote": judgement.promote,
            "findings": [
                {"subject": found.subject, "holds": found.holds, "text": found.text}
                for found in judgement.findings
            ],
            "snapshot": snapshot.id,
            "recipe": recipe.model_dump(),
            "problems": [*snapshot.problems, *unmeasured],
        }
    )


@dataclass(frozen=True, slots=True)
class _Frame:
    """A held-out frame, and what the active model and the candidate said of it."""

    item: SnapshotItem
    before: Answer
    after: Answer

    @property
    def is_ng(self) -> bool:
        return self.item.verdict is LabelVerdict.NG


def _by_category(
    held_out: Sequence[SnapshotItem],
    active: ModelAnswers,
    candidate: ModelAnswers,
    categories: Mapping[str, CategoryConfig],
) -> dict[str, list[_Frame]]:
    """Frames of each category that has any."""
    found: dict[str, list[_Frame]] = {}
    for item in held_out:
        number = item.inspection_id
        frame = _Frame(item, active.held_out[number], candidate.held_out[number])
        found.setdefault(item.category, []).append(frame)
    return {name: found[name] for name in categories if name in found}


def _of_category(name: str, frames: Sequence[_Frame]) -> Measured:
    """Scores and outlines; a frame whose map could not be compared has no outline."""
    outlines = [
        (frame.before.outline, frame.after.outline)
        for frame in frames
        if frame.before.outline is not None and frame.after.outline is not None
    ]
    return Measured(
        name=name,
        kind="held_out",
        is_defective=tuple(frame.is_ng for frame in frames),
        active=tuple(frame.before.score for frame in frames),
        candidate=tuple(frame.after.score for frame in frames),
        active_outline=tuple(before for before, _ in outlines),
        candidate_outline=tuple(after for _, after in outlines),
    )
