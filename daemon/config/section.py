"""What every section is made of: frozen models, names, endpoints, times of day."""

import re
from datetime import time
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, model_validator

MAX_IPC_PATH_BYTES = 107
"""What fits into a Unix socket address on Linux, without the closing NUL (unix(7))."""


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", value):
        raise ValueError(
            "is not a name: use 1 to 64 letters, digits, '_', '.', '-', a letter or digit first"
        )
    return value


def _endpoint(value: str) -> str:
    scheme, _, address = value.partition("://")
    match scheme:
        case "tcp":
            host, _, port = address.rpartition(":")
            if not host or not port.isdecimal() or not 1 <= int(port[:6]) <= 65535:
                raise ValueError("is not tcp://HOST:PORT with a port from 1 to 65535")
        case "ipc":
            if not address.startswith(("/", "@")):
                raise ValueError("is not ipc:///ABSOLUTE/PATH (or ipc://@NAME)")
            if len(address.encode()) > MAX_IPC_PATH_BYTES:
                raise ValueError(
                    f"has a path of {len(address.encode())} bytes, the system's limit is "
                    f"{MAX_IPC_PATH_BYTES}: use a shorter folder"
                )
        case "inproc" if address:
            pass
        case _:
            raise ValueError("is not a ZeroMQ endpoint: use tcp://HOST:PORT or ipc:///PATH")
    return value


def _local_time(value: object) -> object:
    """Only HH:MM or HH:MM:SS: pydantic alone would read 6 as six seconds past midnight."""
    if isinstance(value, time) and value.tzinfo is None:
        return value
    if isinstance(value, str) and re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", value):
        hour, minute, second = (int(part) for part in f"{value}:00".split(":")[:3])
        if hour < 24 and minute < 60 and second < 60:
            return time(hour, minute, second)
    raise ValueError("is not a time of day such as 06:00 (00:00 to 23:59, local time)")


Name = Annotated[str, AfterValidator(_name)]
"""A camera, category, line or shift: letters, digits, '_', '.', '-'; at most 64."""

Endpoint = Annotated[str, AfterValidator(_endpoint)]
"""A ZeroMQ address; ipc paths are absolute, since they must mean the same to the sender."""

LocalTime = Annotated[time, BeforeValidator(_local_time)]
"""A wall-clock time without a zone."""

Place = tuple[str | int, ...]
"""Keys and indices that lead from the top of the configuration to a value."""


class CrossCheckError(ValueError):
    """Sections that contradict each other.

    Attributes:
        problems: Where each is, and what is wrong there.
    """

    def __init__(self, problems: list[tuple[Place, str]]) -> None:
        super().__init__("; ".join(text for _, text in problems))
        self.problems = problems


class Section(BaseModel):
    """Frozen; an unknown key is an error. A section with nothing in it is all defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_empty(cls, value: object) -> object:
        return {} if value is None else value
