"""Where NG frames are defective, and the worst of them as pictures."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    case,
    cast,
    func,
    literal_column,
    select,
)

from daemon.core import Verdict
from daemon.report.contents import GalleryItem, ParetoRow, PartCounts
from daemon.report.frames import in_window
from daemon.storage.tables import InspectionRow, RegionRow, ThumbnailRow

NO_REGION = "no region over the map threshold"
SIZES = ("below 0.1 % of the frame", "0.1 to 1 %", "1 to 10 %", "10 % or more")
_ROWS = ("top", "middle", "bottom")
_COLUMNS = ("left", "centre", "right")

_IS_NG = InspectionRow.verdict == literal_column("'NG'")
_IS_REVIEW = InspectionRow.verdict == literal_column("'REVIEW'")
"""Literals, because SQLite does not use a partial index for a bound value."""


def read_pareto(
    connection: Connection, line: str, start_utc: datetime, end_utc: datetime
) -> tuple[ParetoRow, ...]:
    """NG frames by camera, category, and place and size of their strongest region.

    No defect types exist yet; place and size are what the map itself says. The strongest region
    has the highest peak, of equal peaks the largest area.
    """
    strongest = (
        select(
            InspectionRow.camera,
            InspectionRow.category,
            _third(RegionRow.y_px, RegionRow.height_px, InspectionRow.height_px).label("place_y"),
            _third(RegionRow.x_px, RegionRow.width_px, InspectionRow.width_px).label("place_x"),
            _size_class().label("size"),
            func.row_number()
            .over(
                partition_by=InspectionRow.id,
                order_by=(RegionRow.peak.desc(), RegionRow.area_px.desc(), RegionRow.id),
            )
            .label("rank"),
        )
        .outerjoin(RegionRow, RegionRow.inspection_id == InspectionRow.id)
        .where(in_window(line, start_utc, end_utc), _IS_NG)
        .subquery()
    )
    names = (
        strongest.c.camera,
        strongest.c.category,
        strongest.c.place_y,
        strongest.c.place_x,
        strongest.c.size,
    )
    query = select(*names, func.count()).where(strongest.c.rank == 1).group_by(*names)
    found = [
        ParetoRow(
            camera=camera,
            category=category,
            place=NO_REGION if place_y is None else _place(place_y, place_x),
            size="" if size is None else SIZES[size],
            frames=frames,
        )
        for camera, category, place_y, place_x, size, frames in connection.execute(query)
    ]
    return tuple(sorted(found, key=lambda r: (-r.frames, r.camera, r.category, r.place, r.size)))


def read_gallery(
    connection: Connection,
    line: str,
    start_utc: datetime,
    end_utc: datetime,
    *,
    max_ng: int = 16,
    max_review: int = 8,
) -> tuple[GalleryItem, ...]:
    """The frames with the highest scores: NG, then REVIEW.

    Scores of two categories do not compare, so every category's worst comes before any second.
    """
    wanted = (
        (Verdict.NG, _IS_NG, max_ng),
        (Verdict.REVIEW, _IS_REVIEW, max_review),
    )
    items: list[GalleryItem] = []
    for verdict, condition, limit in wanted:
        rank = (
            func.row_number()
            .over(
                partition_by=InspectionRow.category,
                order_by=(InspectionRow.pred_score.desc(), InspectionRow.id),
            )
            .label("rank")
        )
        ranked = (
            select(InspectionRow.id, InspectionRow.category, rank)
            .where(in_window(line, start_utc, end_utc), condition)
            .subquery()
        )
        best = connection.scalars(
            select(ranked.c.id)
            .where(ranked.c.rank <= limit)
            .order_by(ranked.c.rank, ranked.c.category)
            .limit(limit)
        ).all()
        # a statement of its own: joined, PostgreSQL reads the whole table for these few
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
            .where(InspectionRow.id.in_(best))
        )
        found = {
            inspection_id: GalleryItem(inspection_id, verdict, *rest)
            for inspection_id, *rest in connection.execute(query)
        }
        items += [found[inspection_id] for inspection_id in best]
    return tuple(items)


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


def _third(start: Any, length: Any, whole: Any) -> ColumnElement[int]:
    """0, 1 or 2: the third of the frame that the middle of a box lies in; NULL without a box."""
    middle_times_6 = 6 * start + 3 * length
    return case(
        (start.is_(None), None),
        (middle_times_6 < 2 * whole, 0),
        (middle_times_6 < 4 * whole, 1),
        else_=2,
    )


def _size_class() -> ColumnElement[int]:
    """Index into SIZES; NULL without a region."""
    area = cast(RegionRow.area_px, BigInteger)  # times 1000 is beyond 32 bits
    frame = cast(InspectionRow.width_px, BigInteger) * InspectionRow.height_px
    return case(
        (RegionRow.area_px.is_(None), None),
        (area * 1000 < frame, 0),
        (area * 100 < frame, 1),
        (area * 10 < frame, 2),
        else_=3,
    )


def _place(y: int, x: int) -> str:
    return "centre" if (y, x) == (1, 1) else f"{_ROWS[y]} {_COLUMNS[x]}"
