"""Where results go."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from daemon.config.section import Section


class SpoolConfig(Section):
    """Where results wait on disk while the database is away or slow.

    Attributes:
        dir: On a local disk that keeps files over a restart. Without it the folder stands beside
            the SQLite file (FILE-spool), and with PostgreSQL in `run_dir`.
        max_bytes: From half of it on pictures of OK and LEARNING frames are left out, from three
            quarters on all pictures; when it is full, inspection waits for the database.
    """

    dir: Path | None = None
    max_bytes: Annotated[int, Field(ge=1 << 20)] = 2 << 30


class StorageConfig(Section):
    """Where results go.

    Attributes:
        url: SQLAlchemy URL; `sqlite:///relative.db` is relative to the configuration file.
            `${NAME}` is replaced by the environment variable NAME, so no password stands here.
        thumbnail_px: Longer side of stored pictures.
        thumbnails: Which verdicts get pictures.
        max_results: Most results in memory. They go to the spool when half as many wait for the
            database, or when it has been away or busy with one batch for a second.
        reserve_bytes: What should stay free on the disks of spool and SQLite file. When it is
            touched, pictures of OK and LEARNING frames are left out; below half of it, all.
    """

    url: Annotated[str, Field(repr=False)]
    thumbnail_px: Annotated[int, Field(ge=32, le=1024)] = 256
    thumbnails: tuple[Literal["OK", "NG", "REVIEW", "LEARNING"], ...] = ("NG", "REVIEW", "OK")
    max_results: Annotated[int, Field(ge=1, le=10_000)] = 4_096
    reserve_bytes: Annotated[int, Field(ge=0)] = 512 << 20
    spool: SpoolConfig = SpoolConfig()

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
