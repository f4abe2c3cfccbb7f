"""How long results are kept."""

from typing import Annotated, Literal

from pydantic import Field

from daemon.config.section import Section

Days = Annotated[int, Field(ge=1, le=36_500)]
RowDays = Annotated[int, Field(ge=7, le=36_500)]
"""At least a week: a restart looks for missing numbers in the rows of the last days."""
Kept = Literal["OK", "LEARNING", "REVIEW", "NG", "ERROR"]


class SampleConfig(Section):
    """Thin out the pictures of OK frames: after so many days one of `keep_one_of` stays."""

    after_days: Days
    keep_one_of: Annotated[int, Field(ge=2, le=10_000)]


class RetentionConfig(Section):
    """How long results are kept. A verdict that is not named is kept for ever.

    Attributes:
        pictures_days: By verdict. After this the pictures go and the row stays.
        rows_days: By verdict. After this the row goes, with its regions and pictures; the hourly
            counts of `v_ledger` no longer include it.
        sample_ok: Thins out OK pictures earlier than `pictures_days` removes them.
        max_database_bytes: Over this the oldest pictures go first, of OK, LEARNING and REVIEW
            frames in this order, whatever their age. NG pictures and rows are not touched.
        warn_full_days: The diary says so when the disk or the budget is full in fewer days.
    """

    pictures_days: dict[Kept, Days] = Field(default={"OK": 90, "LEARNING": 90})
    rows_days: dict[Kept, RowDays] = Field(default={})
    sample_ok: SampleConfig | None = None
    max_database_bytes: Annotated[int, Field(ge=1 << 20)] | None = None
    warn_full_days: Annotated[int, Field(ge=1)] = 14
