"""The line's front: who may come in, and what it answers when it is asked how it is.

Knows nothing of frames; the app starts and stops what is here.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from daemon.config.http import HttpConfig
from daemon.config.line import Config
from daemon.config.security import SecurityConfig
from daemon.core import EventKind, Severity
from daemon.credentials import reveal
from daemon.errors import ConfigError
from daemon.health import Health
from daemon.http.routes import Routes
from daemon.http.server import HttpServer
from daemon.security.allow_list import AllowList
from daemon.security.doorkeeper import Doorkeeper
from daemon.security.key_files import KeyPair, parse_secret, read_secret_file
from daemon.security.refusals import Refusals
from daemon.worker import Worker

logger = logging.getLogger(__name__)

HTTP_AGAIN_S = 5.0
_KEY = "security.server_secret"


Note = Callable[[EventKind, str, Severity], None]


class Entrance:
    """The doorkeeper, where keys are configured, and the HTTP server, unless it is off.

    Attributes:
        door: None lets everybody in who reaches a socket.
    """

    def __init__(
        self,
        config: Config,
        *,
        secrets: Mapping[str, str],
        health: Health,
        note: Note,
        on_failure: Callable[[], None],
    ) -> None:
        """HTTP answers from now on, for loading a model takes time; `note` is used later.

        A port that is taken, or an address that is not there, does not stop the line: it is tried
        again, and the diary and `zsad doctor` say so.

        Raises:
            ConfigError: a key, a folder of keys or a secret is missing.
        """
        self._health = health
        self._note = note
        self._refusals = Refusals(
            lambda text: note(EventKind.CLIENT_REFUSED, text, Severity.WARNING)
        )
        self.door: Doorkeeper | None = None
        self._workers: list[Worker] = []
        if config.security is not None:
            self.door = open_door(config.security, secrets, self._refusals)
            self._workers.append(Worker("door", self.door.run, on_failure=on_failure))
        self._http_problem: str | None = None
        self._http = self._open_http(config, secrets, on_failure)

    def start(self) -> None:
        """Begin to let in; after this, what went wrong can be noted."""
        for worker in self._workers:
            worker.start()
        if self._http_problem is not None:
            self._note(EventKind.HTTP_UNAVAILABLE, self._http_problem, Severity.ALARM)
        if self._http is not None:
            if self._http_problem is not None:
                self._http.start()
            self._workers.append(self._http)  # else it runs already; it ends last

    def publish_counters(self) -> None:
        """Put who was refused into the status."""
        self._health.set_refused(self._refusals.totals())

    def workers(self) -> list[Worker]:
        """To be stopped after everything that has sockets."""
        return self._workers

    def _open_http(
        self, config: Config, secrets: Mapping[str, str], on_failure: Callable[[], None]
    ) -> Worker | None:
        http = config.http
        if http.listen == "off":
            return None
        token = None if http.token is None else reveal(http.token, secrets, "http.token")
        routes = Routes(self._health, token=token)
        try:
            server = HttpServer(http.address, routes)
        except OSError as error:
            self._http_problem = (
                f"http.listen {http.listen} cannot be used: {error.strerror}; tried again every "
                f"{HTTP_AGAIN_S:g} s. Set another address, or `listen: off`"
            )
            logger.error("no health and metrics", extra={"detail": self._http_problem})  # noqa: TRY400
            again = partial(self._serve_later, http, routes)
            return Worker("http", again, on_failure=on_failure)
        worker = Worker("http", server.run, on_failure=on_failure)
        worker.start()
        return worker

    def _serve_later(self, http: HttpConfig, routes: Routes, stop: threading.Event) -> None:
        """From when the address can be used."""
        while not stop.wait(HTTP_AGAIN_S):
            try:
                server = HttpServer(http.address, routes)
            except OSError:
                continue
            self._note(
                EventKind.HTTP_AVAILABLE, f"http.listen {http.listen} answers", Severity.INFO
            )
            server.run(stop)
            return


def open_door(config: SecurityConfig, secrets: Mapping[str, str], refusals: Refusals) -> Doorkeeper:
    """The doorkeeper of a configured line.

    Raises:
        ConfigError: the secret key or the folder of allowed keys cannot be read.
    """
    pair = server_key_pair(config, secrets)
    if not config.allowed_keys.is_dir():
        raise ConfigError(
            f"security.allowed_keys: there is no folder {config.allowed_keys}; make it, or add a "
            "camera's key with `zsad keys allow`"
        )
    return Doorkeeper(pair, AllowList(config.allowed_keys), refusals, clock=time.monotonic)


def server_key_pair(config: SecurityConfig, secrets: Mapping[str, str]) -> KeyPair:
    """The daemon's own keys: from its file, or from the secret of a name.

    Raises:
        ConfigError: there is none.
    """
    try:
        if config.server_secret.startswith("${"):
            text = reveal(SecretStr(config.server_secret), secrets, _KEY)
            return parse_secret(text, config.server_secret)
        return read_secret_file(Path(config.server_secret))
    except ValueError as error:
        raise ConfigError(f"{_KEY}: {error}") from error
