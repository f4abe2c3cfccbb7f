"""Verdicts to a web server: one POST of a JSON array a batch."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Sequence

from daemon.config.outputs import WebhookConfig
from daemon.outputs.delivery import NotDeliveredError
from daemon.verdict_message import VerdictMessage


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: object) -> None:
        """The token must not follow a redirect to another host."""


class Webhook:
    """Sends batches; keeps no connection."""

    def __init__(self, config: WebhookConfig, token: str | None) -> None:
        """`token` is the secret itself, no longer `${NAME}`."""
        self._config = config
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._opener = urllib.request.build_opener(_NoRedirect)

    def send(self, messages: Sequence[VerdictMessage]) -> None:
        """POST them; any answer 2xx confirms.

        Raises:
            NotDeliveredError: no answer, or another one.
        """
        body = b"[" + b",".join(message.to_json() for message in messages) + b"]"
        request = urllib.request.Request(  # noqa: S310 - the configuration allows http and https only
            self._config.url, data=body, headers=self._headers, method="POST"
        )
        try:
            with self._opener.open(request, timeout=self._config.timeout_s):
                pass
        except urllib.error.HTTPError as error:
            error.close()
            raise NotDeliveredError(f"{self._config.url} answers {error.code}") from error
        except (OSError, http.client.HTTPException) as error:
            raise NotDeliveredError(f"{self._config.url}: {error}") from error
