"""A small HTTP server for health and metrics. Knows only how to ask `Routes`.

Nothing that a client does may cost more than one thread for REQUEST_S seconds: the head of a
request is bounded in bytes and in time, bodies are not read, a connection carries one request.
"""

import http.server
import io
import json
import logging
import socket
import socketserver
import sys
import threading
import time
from http import HTTPStatus
from typing import Any

from daemon.http.routes import JSON_TYPE, Answer, Routes
from daemon.log import RateLimitedLog

logger = logging.getLogger(__name__)

MAX_THREADS = 8
MAX_HEAD_BYTES = 8 << 10
REQUEST_S = 2.0
"""For the whole head of a request to arrive, and again for the answer to leave."""
POLL_S = 0.25

_Request = socket.socket | tuple[bytes, socket.socket]
_Address = Any  # of the standard library: its form depends on the address family


class HttpServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Bound when constructed; `run` is a thread of its own.

    At most MAX_THREADS requests at a time; the next one waits for a thread in the system's queue
    of connections, at most REQUEST_S for each before it.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, address: tuple[str, int], routes: Routes) -> None:
        """Bind.

        Raises:
            OSError: The address is in use, or not this machine's.
        """
        self.routes = routes
        self.timeout = POLL_S
        self._slots = threading.BoundedSemaphore(MAX_THREADS)
        self._warnings = RateLimitedLog(logger)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set."""
        try:
            while not stop.is_set():
                self.handle_request()
        finally:
            self.server_close()

    def process_request(self, request: _Request, client_address: _Address) -> None:
        """Give the request a thread as soon as one is free."""
        if not self._slots.acquire(timeout=2 * REQUEST_S + 1):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: _Request, client_address: _Address) -> None:
        """Answer, and free the thread's slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """A client that goes away in the middle is no news; anything else is a bug, and logged."""
        self._warnings.warning("failed", "HTTP request failed", error=repr(sys.exception()))

    def server_bind(self) -> None:
        """Bind without asking a name server what this machine is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HttpServer
    server_version = "zsad"
    sys_version = ""

    def setup(self) -> None:
        """Read the head at once, with a bound on all of it, and let the parser read from that."""
        super().setup()
        self.rfile = io.BufferedReader(io.BytesIO(self._read_head()))
        self.connection.settimeout(REQUEST_S)

    def do_GET(self) -> None:
        """Answer."""
        answer = self.server.routes.answer(self.path, self.headers.get("Authorization"))
        self._send(answer)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Refuse in JSON; what the client sent is not repeated."""
        self.request_version = self.protocol_version  # a bad request may not have said one
        body = {"status": "refused", "reasons": [HTTPStatus(code).phrase]}
        self._send(Answer(code, JSON_TYPE, json.dumps(body).encode() + b"\n"))

    def log_message(self, *args: object) -> None:
        """Say nothing: a scrape every second is no news."""

    def _send(self, answer: Answer) -> None:
        self.close_connection = True
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        if answer.status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _read_head(self) -> bytes:
        """Up to the empty line; nothing if it is too slow or cut off, nonsense if too long."""
        head = b""
        end_at = time.monotonic() + REQUEST_S
        while b"\r\n\r\n" not in head and b"\n\n" not in head:
            if len(head) >= MAX_HEAD_BYTES:
                return b"TOO-LONG\r\n\r\n"
            remaining_s = end_at - time.monotonic()
            if remaining_s <= 0:
                return b""
            self.connection.settimeout(remaining_s)
            try:
                received = self.connection.recv(2 * MAX_HEAD_BYTES)
            except TimeoutError:
                return b""
            if not received:
                return b""
            head += received
        return head
