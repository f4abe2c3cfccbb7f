"""Place and size of an NG frame's strongest region as one small number, so that it can be counted.

The strongest region has the highest peak; of equal peaks the largest area counts. No defect types
exist yet: place and size are what the map itself says.
"""

from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, case, cast, func, literal_column, select

from daemon.storage.tables import InspectionRow, RegionRow

NO_SPOT = 0
_SIZES = 4
_THIRDS = 3


class Spot(NamedTuple):
    """Where the middle of the region's box lies, and how much of the frame the region covers.

    Attributes:
        third_y, third_x: 0, 1 or 2, from the top left.
        size: 0 below a thousandth of the frame, 1 below a hundredth, 2 below a tenth, else 3.
    """

    third_y: int
    third_x: int
    size: int


def spot_of(number: int) -> Spot | None:
    """What the number says; None where no region is over the map threshold."""
    if number == NO_SPOT:
        return None
    thirds, size = divmod(number - 1, _SIZES)
    return Spot(*divmod(thirds, _THIRDS), size)


def spot_of_row() -> ColumnElement[int]:
    """The number of a row of `inspection`, NO_SPOT for other verdicts than NG."""
    frame, region = InspectionRow, RegionRow
    third_y = _third(region.y_px, region.height_px, frame.height_px)
    third_x = _third(region.x_px, region.width_px, frame.width_px)
    strongest = (
        select(1 + _SIZES * (_THIRDS * third_y + third_x) + _size_class())
        .where(region.inspection_id == frame.id)
        .order_by(region.peak.desc(), region.area_px.desc(), region.id)
        .limit(1)
        .correlate(frame)
        .scalar_subquery()
    )
    is_ng = frame.verdict == literal_column("'NG'")
    return case((is_ng, func.coalesce(strongest, NO_SPOT)), else_=NO_SPOT)


def _third(start: Any, length: Any, whole: Any) -> ColumnElement[int]:
    middle_times_6 = 6 * start + 3 * length
    return case((middle_times_6 < 2 * whole, 0), (middle_times_6 < 4 * whole, 1), else_=2)


def _size_class() -> ColumnElement[int]:
    area = cast(RegionRow.area_px, BigInteger)  # times 1000 is beyond 32 bits
    frame = cast(InspectionRow.width_px, BigInteger) * InspectionRow.height_px
    return case((area * 1000 < frame, 0), (area * 100 < frame, 1), (area * 10 < frame, 2), else_=3)
