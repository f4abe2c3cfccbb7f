"""Everything that led to one verdict: scores, thresholds and their origin, and the setting."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Row, select

from daemon.config.categories import CategoryConfig
from daemon.config.section import Place
from daemon.config_file import dotted, line_of
from daemon.core import Calibration, LossReason, Region, Thumbnails, Verdict
from daemon.storage import config_history, rows
from daemon.storage.config_history import ConfigVersion
from daemon.storage.tables import (
    CalibrationRow,
    InspectionRow,
    ModelVersionRow,
    RegionRow,
    ThumbnailRow,
)
from daemon.yaml_tree import YamlTextError, read_yaml

_DECIDING_KEYS = {
    Verdict.OK: "review_rate",
    Verdict.REVIEW: "review_rate",
    Verdict.NG: "ng_rate",
    Verdict.LEARNING: "learn_frames",
}
_REFUSING_KEYS: dict[LossReason, tuple[str, ...]] = {
    LossReason.FLAT: ("sanity", "min_contrast"),
    LossReason.TOO_DARK: ("sanity", "min_brightness"),
    LossReason.TOO_BRIGHT: ("sanity", "max_brightness"),
    LossReason.BLURRED: ("sanity", "min_sharpness"),
    LossReason.FROZEN: ("sanity", "frozen_after"),
    LossReason.WRONG_SIZE: ("sanity",),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A line of the configuration that was in force.

    Attributes:
        line: None where the key has its default.
    """

    key: str
    value: str
    file: str
    line: int | None

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else f"{self.file}, not set: the default"
        return f"{self.key}: {self.value} ({where})"


@dataclass(frozen=True, slots=True)
class Explanation:
    """One inspection and what decided it.

    Attributes:
        calibration: In force for the verdict; None for LEARNING and ERROR, and where it cannot
            be told which it was.
        config: In force when the verdict was made; None from before there was a history.
        policy: Of its category, as far as this program understands the old configuration.
        decided_by: Settings that led to the verdict, the deciding one first.
    """

    inspection_id: int
    line: str
    camera: str
    epoch: int
    seq: int
    part_id: str | None
    category: str
    received_utc: datetime
    decided_utc: datetime
    verdict: Verdict
    error_reason: LossReason | None
    error_detail: str | None
    pred_score: float | None
    map_peak: float | None
    review_threshold: float | None
    ng_threshold: float | None
    map_threshold: float | None
    model_version: str
    width_px: int | None
    height_px: int | None
    regions: tuple[Region, ...]
    calibration: Calibration | None
    config: ConfigVersion | None
    policy: CategoryConfig | None
    decided_by: tuple[Setting, ...]


def explain(connection: Connection, inspection_id: int) -> Explanation | None:
    """What is known of an inspection; None if there is no such one."""
    found = connection.execute(
        select(InspectionRow.__table__, ModelVersionRow.name.label("model_version"))
        .join(ModelVersionRow, ModelVersionRow.id == InspectionRow.model_version_id)
        .where(InspectionRow.id == inspection_id)
    ).one_or_none()
    if found is None:
        return None
    verdict = Verdict(found.verdict)
    reason = None if found.error_reason is None else LossReason(found.error_reason)
    calibration = _calibration(connection, found)
    config = config_history.in_force(connection, found.line, found.decided_utc)
    policy = None if config is None else _policy(config, found.category)
    # the rates that thresholds were made with stood in the configuration of that time
    origin = config
    if calibration is not None:
        made_utc = calibration.created_utc
        origin = config_history.in_force(connection, found.line, made_utc) or config
    return Explanation(
        inspection_id=found.id,
        line=found.line,
        camera=found.camera,
        epoch=found.epoch,
        seq=found.seq,
        part_id=found.part_id,
        category=found.category,
        received_utc=found.received_utc,
        decided_utc=found.decided_utc,
        verdict=verdict,
        error_reason=reason,
        error_detail=found.error_detail,
        pred_score=found.pred_score,
        map_peak=found.map_peak,
        review_threshold=found.review_threshold,
        ng_threshold=found.ng_threshold,
        map_threshold=found.map_threshold,
        model_version=found.model_version,
        width_px=found.width_px,
        height_px=found.height_px,
        regions=_regions(connection, inspection_id),
        calibration=calibration,
        config=config,
        policy=policy,
        decided_by=tuple(
            _settings(found.category, _deciding_keys(found, verdict, reason, policy), origin)
        ),
    )


def pictures(connection: Connection, inspection_id: int) -> Thumbnails | None:
    """The stored pictures of an inspection; None if it has none, or none any more."""
    row = ThumbnailRow
    found = connection.execute(
        select(row.photo_jpeg, row.overlay_jpeg, row.map_png).where(
            row.inspection_id == inspection_id
        )
    ).one_or_none()
    return None if found is None else Thumbnails(*found)


def _calibration(connection: Connection, found: Row[Any]) -> Calibration | None:
    """The newest one before the verdict that has the thresholds stored beside the score."""
    if found.ng_threshold is None:
        return None
    row = CalibrationRow
    made = connection.execute(
        select(row.__table__)
        .where(
            row.category == found.category,
            row.model_version_id == found.model_version_id,
            row.review_threshold == found.review_threshold,
            row.ng_threshold == found.ng_threshold,
            row.created_utc <= found.decided_utc,
        )
        .order_by(row.id.desc())
        .limit(1)
    ).one_or_none()
    return None if made is None else rows.to_calibration(made, found.model_version)


def _regions(connection: Connection, inspection_id: int) -> tuple[Region, ...]:
    row = RegionRow
    found = connection.execute(
        select(row.x_px, row.y_px, row.width_px, row.height_px, row.area_px, row.peak)
        .where(row.inspection_id == inspection_id)
        .order_by(row.id)
    )
    return tuple(Region(*region) for region in found)


def _policy(config: ConfigVersion, category: str) -> CategoryConfig | None:
    """The category as it was configured; None where today's program cannot read that."""
    try:
        return CategoryConfig.model_validate(_value(config.text, ("categories", category)))
    except ValidationError:
        return None


def _deciding_keys(
    found: Row[Any], verdict: Verdict, reason: LossReason | None, policy: CategoryConfig | None
) -> list[tuple[str, ...]]:
    if reason is not None:
        return [_REFUSING_KEYS[reason]] if reason in _REFUSING_KEYS else []
    is_between = (
        found.ng_threshold is not None
        and found.review_threshold <= found.pred_score < found.ng_threshold
    )
    if is_between:  # not by the verdict: it is what `review_as` says
        is_plain = policy is None or policy.review_as == "REVIEW"
        return [("review_rate",)] if is_plain else [("review_as",), ("review_rate",)]
    keys: list[tuple[str, ...]] = [(_DECIDING_KEYS[verdict],)]
    if policy is not None and policy.confidence is not None and verdict is not Verdict.LEARNING:
        keys.append(("confidence",))
    return keys


def _settings(
    category: str, keys: list[tuple[str, ...]], config: ConfigVersion | None
) -> Iterator[Setting]:
    if config is None:
        return
    policy = _policy(config, category)
    for key in keys:
        place = ("categories", category, *key)
        value = _value(config.text, place)
        if value is None and policy is not None:
            value = _default(policy, key)
        yield Setting(dotted(place), str(value), config.file, line_of(config.text, place))


def _default(section: object, key: tuple[str, ...]) -> object:
    for name in key:
        section = getattr(section, name)
    return section


def _value(text: str, place: Place) -> object:
    """What stands at a place in a configuration's text; None where nothing does."""
    try:
        value = read_yaml(text).data
    except YamlTextError:
        return None
    for step in place:
        value = value.get(step) if isinstance(value, dict) else None
    return value
