"""What each path answers. Opens no socket: health in, text out."""

import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from daemon.health import Health
from daemon.http.metrics import HealthCollector
from daemon.status import SourceState, State, StatusSnapshot

JSON_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """Status code, type and body of one response."""

    status: int
    content_type: str
    body: bytes


class Routes:
    """Answers GET requests; any thread.

    /livez: every thread makes progress. /readyz: and frames are being received, inspected and
    stored. /healthz: the same, with the whole status. /metrics: for Prometheus.
    """

    def __init__(
        self,
        health: Health,
        *,
        token: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`token` is wanted for /healthz and /metrics; None lets everybody read them."""
        self._health = health
        self._token = token
        self._clock = clock
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(HealthCollector(health, clock))

    def answer(self, path: str, authorization: str | None = None) -> Answer:
        """Answer one request; a query is ignored.

        Args:
            authorization: The header of that name, as it came.
        """
        route = path.partition("?")[0]
        if route in ("/healthz", "/metrics") and not self._may_read(authorization):
            return _json(
                401, {"status": "refused", "reasons": ["send Authorization: Bearer TOKEN"]}
            )
        match route:
            case "/livez":
                return _verdict(self._not_alive())
            case "/readyz":
                return _verdict([*self._not_alive(), *reasons_not_ready(self._snapshot())])
            case "/healthz":
                snapshot = self._snapshot()
                reasons = [*self._not_alive(), *reasons_not_ready(snapshot)]
                return _verdict(reasons, daemon=snapshot.model_dump(mode="json"))
            case "/metrics":
                return Answer(200, CONTENT_TYPE_PLAIN_0_0_4, generate_latest(self._registry))
            case _:
                known = "try /livez, /readyz, /healthz or /metrics"
                return _json(404, {"status": "unknown", "reasons": [known]})

    def _may_read(self, authorization: str | None) -> bool:
        if self._token is None:
            return True
        given = (authorization or "").removeprefix("Bearer ").strip()
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())

    def _not_alive(self) -> list[str]:
        dead = self._health.dead_threads(self._clock())
        return [f"no progress of: {', '.join(dead)}"] if dead else []

    def _snapshot(self) -> StatusSnapshot:
        return self._health.snapshot(self._clock(), datetime.now(UTC))


def reasons_not_ready(snapshot: StatusSnapshot) -> list[str]:
    """Why frames are not being received, inspected and stored now; empty if they are."""
    reasons = [] if snapshot.state is State.READY else [f"the daemon is {snapshot.state}"]
    reasons += snapshot.troubles.values()
    states = [source.state for source in snapshot.sources.values()]
    if SourceState.FRESH not in states:
        heard = ", ".join(f"{name} is {s.state}" for name, s in snapshot.sources.items())
        reasons.append(f"no source is fresh: {heard or 'none is open yet'}")
    return reasons


def _verdict(reasons: list[str], **more: object) -> Answer:
    status = "unavailable" if reasons else "ok"
    return _json(503 if reasons else 200, {"status": status, "reasons": reasons, **more})


def _json(status: int, value: dict[str, object]) -> Answer:
    return Answer(status, JSON_TYPE, json.dumps(value).encode() + b"\n")
