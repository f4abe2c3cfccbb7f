"""Files of labels, read within bounds and checked, and written complete or not at all."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from daemon.labels.mask import check_file
from zsad.image_files import DataError

MAX_JSON_BYTES = 256 << 20
"""Of one file; its values take a few times as much memory."""


class Part(BaseModel):
    """A part of a tool's file; what we do not know is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


Whole = TypeVar("Whole", bound=BaseModel)


def read_json(path: Path, model: type[Whole], max_bytes: int) -> Whole:
    """A JSON file as the values it has to hold.

    Raises:
        DataError: Too large, unreadable, or something is missing or wrong.
    """
    check_file(path, max_bytes)
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): restore the file") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(
            f"{path}: {where}: {first['msg']} ({error.error_count()} such places): export it again"
        ) from error


def write_file(path: Path, content: bytes | memoryview) -> None:
    """Write a file that is complete or absent, with its folders.

    Raises:
        DataError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror}): choose another") from error
