"""Which whole frames are kept on disk, and for how long."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from daemon.config.section import Section

Framed = Literal["NG", "REVIEW"]


class FramesConfig(Section):
    """Whole frames on disk, as the camera sent them: for people who label, and for the night.

    LEARNING frames are always kept. A labelled frame, and one that thresholds were computed from,
    is never removed.

    Attributes:
        dir: On a disk that keeps files over a restart.
        keep: All frames of these verdicts.
        keep_one_ok_of: Of the OK frames one of so many, drawn at random; None keeps none.
        days: How long frames without a label stay.
        max_bytes: Over this the oldest frames without a label go first, of OK, LEARNING, REVIEW
            and NG in this order.
    """

    dir: Path
    keep: tuple[Framed, ...] = ("NG", "REVIEW")
    keep_one_ok_of: Annotated[int, Field(ge=1, le=1_000_000)] | None = 50
    days: Annotated[int, Field(ge=1, le=36_500)] = 30
    max_bytes: Annotated[int, Field(ge=1 << 20)] = 20 << 30
