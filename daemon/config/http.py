"""Where the daemon answers questions about itself."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from daemon.config.section import CrossCheckError, Section
from daemon.config.security import is_loopback


def _listen(value: str) -> str:
    if value == "off":
        return value
    host, _, port = value.rpartition(":")
    if not re.fullmatch(r"[0-9a-zA-Z.\-]+|\[[0-9a-fA-F:.]+\]", host) or not (
        port.isdecimal() and 0 <= int(port[:6]) <= 65535
    ):
        raise ValueError("is not HOST:PORT such as 127.0.0.1:9177, or off")
    return value


class HttpConfig(Section):
    """Routes /livez, /readyz, /healthz and /metrics; see docs/security.md.

    Attributes:
        listen: `off`, or an address. Another than this machine's own needs a token. Port 0
            takes any free one.
        token: `Authorization: Bearer TOKEN` is then wanted for /healthz and /metrics.
    """

    listen: Annotated[str, Field(max_length=300), AfterValidator(_listen)] = "127.0.0.1:9177"
    token: SecretStr | None = None

    @model_validator(mode="after")
    def _strangers_need_a_token(self) -> Self:
        if self.token is None and self.listen != "off" and not is_loopback(self.address[0]):
            text = (
                f"{self.listen!r} is reachable from other machines: set `http.token: ${{NAME}}`, "
                "or listen on 127.0.0.1"
            )
            raise CrossCheckError([(("listen",), text)])
        return self

    @property
    def address(self) -> tuple[str, int]:
        """Host without brackets, and port."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)
