"""Whether a candidate may take the active model's place, from what both said of the same images.

A pure function of reports. It states what must hold and refuses the rest, so a NaN anywhere, an
empty set and a missing threshold refuse; every finding is a sentence with the value and the limit.
"""

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95
"""One-sided: of AUROC differences that were drawn anew from the images, so many lie above."""
MIN_TO_SHOW_A_GAIN = 4
"""Sound and defective images of a set, each, from which on it may show that a model is better."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """One labelled set under both models; all sequences are by image, in one order.

    Attributes:
        name: Of the category, or of the set of products that nobody trains on.
        kind: `held_out` images of a category of the line, or an `unseen` product.
        is_defective: What people said, or what was drawn.
        active, candidate: Image scores in [0, 1].
        active_outline, candidate_outline: How well the map tells the defect's pixels from the
            others (AUROC), of the images that have both; the rest are left out.
        active_rejects, candidate_rejects: Of the sound images, whether each model's own NG
            threshold rejects it; empty for unseen products, which have no thresholds.
    """

    name: str
    kind: Literal["held_out", "unseen"]
    is_defective: tuple[bool, ...]
    active: tuple[float, ...]
    candidate: tuple[float, ...]
    active_outline: tuple[float, ...] = ()
    candidate_outline: tuple[float, ...] = ()
    active_rejects: tuple[bool, ...] = ()
    candidate_rejects: tuple[bool, ...] = ()

    @property
    def n_defective(self) -> int:
        """How many images show a defect."""
        return sum(self.is_defective)

    @property
    def n_sound(self) -> int:
        """How many do not."""
        return len(self.is_defective) - self.n_defective


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the gate looks at.

    Attributes:
        sets: Every category's held-out set, and the unseen products.
        uncalibrated: Why a category has no thresholds under the candidate, by category.
        golden: Why the candidate's golden images do not give their scores again; None if they do.
    """

    sets: tuple[Measured, ...]
    uncalibrated: Mapping[str, str]
    golden: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        holds: Whether it speaks for the candidate, or at least not against it.
        text: A sentence with the value and the limit.
    """

    subject: str
    holds: bool
    text: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """The gate's answer with all it has seen."""

    promote: bool
    findings: tuple[Finding, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why not; empty where the candidate passed."""
        return tuple(finding.text for finding in self.findings if not finding.holds)


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate minus active.

    Attributes:
        mean: On the images as they are.
        low: Lower limit with CONFIDENCE.
    """

    mean: float
    low: float


def judge(evidence: Evidence, *, margin: float, seed: int = 0) -> Judgement:
    """Every rule, for every set; the order of the sets makes no difference.

    A candidate passes if on no set it may be worse than the active model by more than `margin`,
    if no category gets more false rejects, and if at least one labelled category is better beyond
    chance.

    Args:
        margin: Of AUROC, above 0.
        seed: Of the resampling.
    """
    sets = sorted(evidence.sets, key=lambda measured: (measured.kind, measured.name))
    findings = [
        Finding(name, False, f"{name}: no thresholds for the candidate: {why}")
        for name, why in sorted(evidence.uncalibrated.items())
    ]
    if evidence.golden is not None:
        text = f"golden images do not reproduce: {evidence.golden}"
        findings.append(Finding("golden images", False, text))
    gains = []
    for measured in sets:
        if broken := _broken(measured):
            findings.append(Finding(measured.name, False, f"{measured.name}: {broken}"))
            continue
        differences = _differences(measured, _generator(measured, seed))
        findings += [_not_worse(measured, *item, margin) for item in differences.items()]
        findings += _false_rejects(measured, margin)
        if measured.kind == "held_out" and _may_show_a_gain(measured):
            gains += [(difference.low, measured.name) for difference in differences.values()]
    findings += [_something_unseen(sets), _something_better(gains)]
    return Judgement(all(finding.holds for finding in findings), tuple(findings))


def losses(sets: Iterable[Measured], *, margin: float, seed: int = 0) -> dict[str, str]:
    """Held-out sets on which the candidate may be worse by more than `margin`, and the sentence.

    The same draws as in `judge`; a set that says nothing is not among them.
    """
    found = {}
    for measured in sets:
        if measured.kind == "held_out" and _broken(measured) is None:
            for metric, difference in _differences(measured, _generator(measured, seed)).items():
                finding = _not_worse(measured, metric, difference, margin)
                if not finding.holds:
                    found[measured.name] = finding.text
    return found


def auroc(sound: Sequence[float], defective: Sequence[float]) -> float:
    """Probability that a defective image scores higher; ties count one half. NaN if one is empty.

    Raises:
        ValueError: a score is NaN.
    """
    if np.isnan([*sound, *defective]).any():
        raise ValueError("a score is NaN")
    if not sound or not defective:
        return math.nan
    return float(_wins(sound, defective).mean())


def _broken(measured: Measured) -> str | None:
    """Why a set says nothing at all."""
    n = len(measured.is_defective)
    n_sound = measured.n_sound if measured.kind == "held_out" else 0
    pairs = (
        ("scores", measured.active, measured.candidate, n),
        ("outlines", measured.active_outline, measured.candidate_outline, None),
        ("decisions", measured.active_rejects, measured.candidate_rejects, n_sound),
    )
    for what, active, candidate, wanted in pairs:
        if len(active) != len(candidate) or (wanted is not None and len(active) != wanted):
            return f"{len(active)} and {len(candidate)} {what} for {n} images"
    for who, values in (
        ("active model", (*measured.active, *measured.active_outline)),
        ("candidate", (*measured.candidate, *measured.candidate_outline)),
    ):
        if bad := [value for value in values if not 0.0 <= value <= 1.0]:
            return f"{len(bad)} of {len(values)} values of the {who} are not in [0, 1]: {bad[0]}"
    return None if n else "the set is empty"


def _generator(measured: Measured, seed: int) -> np.random.Generator:
    """By the set's name, so that neither order nor other sets change a draw."""
    return np.random.default_rng([seed, zlib.crc32(measured.name.encode())])


def _differences(measured: Measured, generator: np.random.Generator) -> dict[str, Difference]:
    """What can be compared: image scores where both kinds of image exist, and outlines."""
    found = {}
    if measured.n_sound and measured.n_defective:
        found["I-AUROC"] = _image_difference(measured, generator)
    if measured.active_outline:
        steps = np.subtract(measured.candidate_outline, measured.active_outline)
        drawn = generator.integers(0, len(steps), (RESAMPLES, len(steps)))
        found["P-AUROC"] = _difference(float(steps.mean()), steps[drawn].mean(axis=1))
    return found


def _image_difference(measured: Measured, generator: np.random.Generator) -> Difference:
    """Paired bootstrap: the same images drawn for both models, sound and defective by themselves.

    With W[i, j] = 1 where defective image i beats sound image j (ties one half), AUROC of a
    resample is u W v for the shares u and v with which it holds each image.
    """
    defective = np.asarray(measured.is_defective)
    wins = [
        _wins(np.asarray(scores)[~defective], np.asarray(scores)[defective])
        for scores in (measured.active, measured.candidate)
    ]
    gain = wins[1] - wins[0]  # [defective, sound]
    u, v = (generator.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in gain.shape)
    return _difference(float(gain.mean()), ((u @ gain) * v).sum(axis=1))


def _difference(mean: float, resampled: Floats) -> Difference:
    return Difference(mean, float(np.quantile(resampled, 1.0 - CONFIDENCE)))


def _wins(sound: Sequence[float] | Floats, defective: Sequence[float] | Floats) -> Floats:
    """[defective, sound]: 1 where the defective image scores higher, 0.5 where both are equal."""
    higher, lower = np.asarray(defective)[:, None], np.asarray(sound)[None, :]
    return np.asarray((higher > lower) + 0.5 * (higher == lower), dtype=np.float64)


def _not_worse(measured: Measured, metric: str, found: Difference, margin: float) -> Finding:
    holds = found.low >= -margin
    counts = f"{measured.n_sound} sound, {measured.n_defective} defective images"
    text = (
        f"{measured.name}: {metric} {found.mean:+.3f} against the active model, with "
        f"{CONFIDENCE:.0%} confidence at least {found.low:+.3f}, "
        f"{'within' if holds else 'beyond'} the margin of -{margin:g} ({counts})"
    )
    return Finding(measured.name, holds, text)


def _false_rejects(measured: Measured, margin: float) -> list[Finding]:
    """Of few images one more may be chance; of many, `margin` more."""
    n = len(measured.candidate_rejects)
    if not n:
        return []
    before, after = sum(measured.active_rejects), sum(measured.candidate_rejects)
    allowed = max(1, math.floor(margin * n))
    holds = after - before <= allowed
    text = (
        f"{measured.name}: false rejects {after} of {n} sound images, {before} by the active "
        f"model; at most {allowed} more {'is' if allowed == 1 else 'are'} allowed"
    )
    return [Finding(measured.name, holds, text)]


def _may_show_a_gain(measured: Measured) -> bool:
    return min(measured.n_sound, measured.n_defective) >= MIN_TO_SHOW_A_GAIN


def _something_better(gains: Iterable[tuple[float, str]]) -> Finding:
    """A candidate that is only as good would change the line for nothing."""
    best = max(gains, default=None)
    if best is None:
        text = (
            f"no category has {MIN_TO_SHOW_A_GAIN} sound and {MIN_TO_SHOW_A_GAIN} defective "
            "images held out, so nothing can show that the candidate is better: label more"
        )
        return Finding("gain", False, text)
    low, name = best
    words = f"with {CONFIDENCE:.0%} confidence at least {low:+.3f}"
    if low > 0:
        return Finding("gain", True, f"{name} is better: {words}")
    text = f"no labelled category is better beyond chance: the best is {name}, {words}, not above 0"
    return Finding("gain", False, text)


def _something_unseen(sets: Iterable[Measured]) -> Finding:
    unseen = [measured.name for measured in sets if measured.kind == "unseen"]
    text = f"unseen products: {', '.join(unseen) or 'none was measured'}"
    return Finding("unseen products", bool(unseen), text)
