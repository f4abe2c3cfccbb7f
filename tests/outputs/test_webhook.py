import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from daemon.config.outputs import WebhookConfig
from daemon.core import Inspection
from daemon.outputs.delivery import NotDeliveredError
from daemon.outputs.webhook import Webhook
from daemon.verdict_message import VerdictMessage, message_of

Make = Callable[..., Inspection]


class Receiver(HTTPServer):
    """A real web server that keeps what it was sent; answers with `status`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 204
        self.location: str | None = None
        self.requests: list[tuple[str | None, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/verdicts"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.headers["Authorization"], body))
        self.send_response(self.server.status)
        if self.server.location is not None:
            self.send_header("Location", self.server.location)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def messages(make_inspection: Make) -> list[VerdictMessage]:
    made = [message_of("l1", make_inspection(seq)) for seq in (1, 2)]
    return [message for message in made if message is not None]


def test_a_batch_is_one_json_array_with_the_token(
    receiver: Receiver, make_inspection: Make
) -> None:
    Webhook(WebhookConfig(url=receiver.url), "s3cret").send(messages(make_inspection))

    ((authorization, body),) = receiver.requests
    assert authorization == "Bearer s3cret"
    assert [item["seq"] for item in json.loads(body)] == [1, 2]


@pytest.mark.parametrize("status", [301, 400, 503])
def test_any_answer_but_success_is_not_delivered(
    receiver: Receiver, make_inspection: Make, status: int
) -> None:
    receiver.status, receiver.location = status, "http://127.0.0.1:9/elsewhere"

    with pytest.raises(NotDeliveredError, match=f"answers {status}"):
        Webhook(WebhookConfig(url=receiver.url), "s3cret").send(messages(make_inspection))

    assert len(receiver.requests) == 1  # the token did not follow the redirect


def test_a_server_that_is_away_is_not_delivered(make_inspection: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"

    with pytest.raises(NotDeliveredError, match="refused"):
        Webhook(WebhookConfig(url=url, timeout_s=5), None).send(messages(make_inspection))


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "https:///x", "https://user:word@host/", "file:///etc"]
)
def test_an_address_that_is_no_plain_web_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"is not a web address|holds a user"):
        WebhookConfig(url=url)
