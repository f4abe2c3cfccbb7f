"""Where results go."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from daemon.config.section import Section


class StorageConfig(Section):
    """Where results go.

    Attributes:
        url: SQLAlchemy URL; `sqlite:///relative.db` is relative to the configuration file.
            `${NAME}` is replaced by the environment variable NAME, so no password stands here.
        thumbnail_px: Longer side of stored pictures.
        thumbnails: Which verdicts get pictures.
    """

    url: Annotated[str, Field(repr=False)]
    thumbnail_px: Annotated[int, Field(ge=32, le=1024)] = 256
    thumbnails: tuple[Literal["OK", "NG", "REVIEW", "LEARNING"], ...] = ("NG", "REVIEW", "OK")
    max_results: Annotated[int, Field(ge=1, le=10_000)] = 256

    @field_validator("url")
    @classmethod
    def _is_known_database(cls, value: str) -> str:
        known = ("sqlite://", "postgresql://", "postgresql+psycopg://", "${")
        if not value.startswith(known):
            raise ValueError(
                "is not a database this can use: write sqlite:///FILE or "
                "postgresql://USER:PASSWORD@HOST/DATABASE"
            )
        return value
