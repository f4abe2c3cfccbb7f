"""Where verdicts go besides the database.

A secret is best `${NAME}`: read from the environment or from a systemd credential of that name.
"""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from daemon.config.section import Endpoint, Section


def _web_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not a web address: use https://HOST/PATH")
    if parts.username or parts.password:
        raise ValueError("holds a user or password: put a token into `token: ${NAME}` instead")
    return value


def _topic(value: str) -> str:
    if any(sign in value for sign in "+#\x00") or value.startswith("/") or value.endswith("/"):
        raise ValueError("is not a topic to publish on: no '+', '#', or '/' at its ends")
    return value


SentVerdict = Literal["OK", "NG", "REVIEW", "LEARNING", "ERROR"]


class VerdictSocketConfig(Section):
    """A ZeroMQ PUB socket for reject gates; see docs/verdicts.md for the message.

    Attributes:
        endpoint: Best an ipc path or a loopback address.
        mode: The daemon binds, gates connect; or the other way round.
        allow_plain: No keys, although other machines reach it or `security:` is configured.
    """

    endpoint: Endpoint
    mode: Literal["bind", "connect"] = "bind"
    allow_plain: bool = False


class MqttConfig(Section):
    """An MQTT broker; needs the extra `zsad[mqtt]`.

    Attributes:
        topic: Prefix: verdicts go to TOPIC/LINE/CAMERA, presence to TOPIC/LINE/availability.
        verdicts: Only these are sent.
    """

    host: Annotated[str, Field(min_length=1, max_length=253)]
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    tls: bool = False
    username: str | None = None
    password: SecretStr | None = None
    topic: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_topic)] = "zsad"
    verdicts: tuple[SentVerdict, ...] = ("OK", "NG", "REVIEW", "ERROR")


class WebhookConfig(Section):
    """A web server that takes verdicts as JSON by POST.

    Attributes:
        token: Sent as `Authorization: Bearer`.
        verdicts: Only these are sent.
        timeout_s: How long to wait for the server at each step of a request.
    """

    url: Annotated[str, AfterValidator(_web_url)]
    token: SecretStr | None = None
    verdicts: tuple[SentVerdict, ...] = ("NG", "ERROR")
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 10.0


class OutputsConfig(Section):
    """Each is off unless it is configured."""

    verdicts: VerdictSocketConfig | None = None
    mqtt: MqttConfig | None = None
    webhook: WebhookConfig | None = None
