"""Where NG frames are defective, and the worst of them as pictures."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, case, func, select

from daemon.core import Verdict
from daemon.report.contents import GalleryItem, ParetoRow, PartCounts
from daemon.report.frames import Frames, in_window
from daemon.storage.spots import Spot, spot_of
from daemon.storage.tables import InspectionRow, ThumbnailRow

NO_REGION = "no region over the map threshold"
SIZES = ("below 0.1 % of the frame", "0.1 to 1 %", "1 to 10 %", "10 % or more")
_ROWS = ("top", "middle", "bottom")
_COLUMNS = ("left", "centre", "right")


def pareto_of(frames: Frames) -> tuple[ParetoRow, ...]:
    """NG frames by camera, category, and place and size of their strongest region."""
    at = frames.where([key.verdict is Verdict.NG for key in frames.keys])
    both, n_frames = np.unique(
        frames.code[at] * np.int64(256) + frames.spot[at], return_counts=True
    )
    counts: Counter[tuple[str, str, str, str]] = Counter()
    for code_and_spot, n in zip(both.tolist(), n_frames.tolist(), strict=True):
        code, number = divmod(code_and_spot, 256)
        key, spot = frames.keys[code], spot_of(number)
        place, size = (NO_REGION, "") if spot is None else (_place(spot), SIZES[spot.size])
        counts[key.camera, key.category, place, size] += n
    found = [ParetoRow(*name, n) for name, n in counts.items()]
    return tuple(sorted(found, key=lambda r: (-r.frames, r.camera, r.category, r.place, r.size)))


def read_gallery(
    connection: Connection, frames: Frames, *, max_ng: int = 16, max_review: int = 8
) -> tuple[GalleryItem, ...]:
    """The frames with the highest scores: NG, then REVIEW.

    Scores of two categories do not compare, so every category's worst comes before any second.
    """
    judged = [
        (key.verdict, key.category) if key.verdict in (Verdict.NG, Verdict.REVIEW) else None
        for key in frames.keys
    ]
    at_of = frames.grouped(judged)
    items: list[GalleryItem] = []
    for verdict, limit in ((Verdict.NG, max_ng), (Verdict.REVIEW, max_review)):
        by_category = {category: at for (found, category), at in at_of.items() if found is verdict}
        worst = _worst(frames, by_category, limit)
        query = (
            select(
                InspectionRow.id,
                InspectionRow.camera,
                InspectionRow.category,
                InspectionRow.received_utc,
                InspectionRow.pred_score,
                InspectionRow.review_threshold,
                InspectionRow.ng_threshold,
                InspectionRow.part_id,
                InspectionRow.lot,
                ThumbnailRow.photo_jpeg,
                ThumbnailRow.overlay_jpeg,
            )
            .outerjoin(ThumbnailRow, ThumbnailRow.inspection_id == InspectionRow.id)
            .where(InspectionRow.id.in_(worst))
        )
        found = {
            inspection_id: GalleryItem(inspection_id, verdict, *rest)
            for inspection_id, *rest in connection.execute(query)
        }
        items += [found[inspection_id] for inspection_id in worst]
    return tuple(items)


def _worst(frames: Frames, at_of: Mapping[str, NDArray[np.intp]], limit: int) -> list[int]:
    """Ids by rank within their category, then by category; of equal scores the lower id first."""
    ranked: list[tuple[int, str, int]] = []
    for category, at in at_of.items():
        ids = frames.inspection_id[at]
        best = ids[np.lexsort((ids, -frames.score[at]))[:limit]].tolist()
        ranked += [(rank, category, inspection_id) for rank, inspection_id in enumerate(best)]
    return [inspection_id for _, _, inspection_id in sorted(ranked)[:limit]]


def read_parts(
    connection: Connection, line: str, start_utc: datetime, end_utc: datetime, judged: int
) -> PartCounts | None:
    """Parts by part_id; None where no frame has one.

    Args:
        judged: Frames with verdict OK, NG or REVIEW in the window.
    """
    row = InspectionRow
    is_judged = row.verdict.in_(["OK", "NG", "REVIEW"])
    per_part = (
        select(
            func.min(case((row.verdict == "OK", 1), else_=0)).label("is_good"),
            func.sum(case((is_judged, 1), else_=0)).label("judged"),
        )
        .where(
            in_window(line, start_utc, end_utc),
            row.part_id.is_not(None),
            row.verdict != "LEARNING",
        )
        .group_by(row.part_id)
        .subquery()
    )
    parts, good, judged_with_id = connection.execute(
        select(func.count(), func.sum(per_part.c.is_good), func.sum(per_part.c.judged)).select_from(
            per_part
        )
    ).one()
    if not parts:
        return None
    return PartCounts(
        parts=parts, first_pass_ok=int(good), judged_frames_without_id=judged - int(judged_with_id)
    )


def _place(spot: Spot) -> str:
    if (spot.third_y, spot.third_x) == (1, 1):
        return "centre"
    return f"{_ROWS[spot.third_y]} {_COLUMNS[spot.third_x]}"
