"""Who may send frames and read verdicts over the network."""

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from daemon.config.section import CrossCheckError, Section

PLAIN_PROBLEM = (
    "is reachable from other machines, and without `security:` everyone there may use it: make "
    "keys with `zsad keys new` and name them under `security:` (docs/security.md), or use ipc or "
    "127.0.0.1, or set `allow_plain: true` for a network that nobody else is on"
)


def _not_the_secret_itself(value: str) -> str:
    if re.fullmatch(r"[^\s_,;'\"|~`\\]{40}", value) and not value.startswith(("/", "$", ".")):
        text = "this is a key itself: name the file that holds it (and make a new key)"
        raise CrossCheckError([((), text)])  # which, unlike ValueError, does not show the value
    return value


class SecurityConfig(Section):
    """Keys; with this section every tcp socket wants one, unless it says `allow_plain`.

    Attributes:
        server_secret: The daemon's own `NAME.key_secret` file, or `${NAME}` for the environment
            or a systemd credential with the text of that file.
        allowed_keys: Folder that `zsad keys allow` writes to.
    """

    server_secret: Annotated[str, AfterValidator(_not_the_secret_itself)]
    allowed_keys: Path


def is_local(endpoint: str) -> bool:
    """Whether only this machine can use it: ipc, inproc and loopback addresses."""
    scheme, _, address = endpoint.partition("://")
    return scheme != "tcp" or is_loopback(address.rpartition(":")[0])


def is_guarded(endpoint: str, *, allow_plain: bool) -> bool:
    """Whether the socket wants keys where there is `security:`; ipc has file permissions."""
    return endpoint.startswith("tcp://") and not allow_plain


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own, unreachable from others."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
