"""Verdicts leave the running daemon: at once to a gate, and after the commit to a web server."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.request import urlopen

import numpy as np
import pytest
import zmq
from daemon_process import Line, wait_until

from daemon.ingest.publisher import FramePublisher

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

FRAMES = 12


class _Receiver(BaseHTTPRequestHandler):
    """Refuses its first request, as a server that is just being restarted."""

    heard: list[int]
    refused = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not _Receiver.refused:
            _Receiver.refused = True
            self.send_response(503)
        else:
            _Receiver.heard += [message["seq"] for message in json.loads(body)]
            self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def test_a_gate_and_a_web_server_hear_every_verdict(line: Line) -> None:
    _Receiver.heard = []
    gate_endpoint = line.endpoint.replace("/frames", "/verdicts")
    with (
        HTTPServer(("127.0.0.1", 0), _Receiver) as server,
        zmq.Context() as context,
        context.socket(zmq.SUB) as gate,
    ):
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        gate.bind(gate_endpoint)
        gate.subscribe(b"line1/")
        line.settings["outputs"] = {
            "verdicts": {"endpoint": gate_endpoint, "mode": "connect"},
            "webhook": {
                "url": f"http://127.0.0.1:{server.server_port}/",
                "verdicts": ["LEARNING", "OK", "NG", "REVIEW"],
            },
        }
        line.start()
        with FramePublisher(line.endpoint, "cam2", category="tile", mode="connect") as camera:
            assert camera.wait_for_subscriber(10)
            # libzmq sends a subscription to a new peer only while its own program receives
            gate.poll(200)
            for seed in range(FRAMES):
                noise = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)
                camera.send(noise)
            wait_until(lambda: len(_Receiver.heard) >= FRAMES, "the web server")
        assert gate.poll(5_000)
        gated = [json.loads(gate.recv_multipart()[2]) for _ in range(FRAMES)]
        assert line.stop() == 0
        server.shutdown()

    assert _Receiver.heard == list(range(FRAMES))
    assert [(said["seq"], said["verdict"]) for said in gated] == [
        (seq, "LEARNING") for seq in range(FRAMES)
    ]


@pytest.mark.soak
def test_a_web_server_that_never_answers_neither_restarts_nor_spoils_the_daemon(
    line: Line,
) -> None:
    """It holds each request longer than the watchdog is patient with a thread."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        line.settings["outputs"] = {
            "webhook": {
                "url": f"http://127.0.0.1:{silent.getsockname()[1]}/",
                "verdicts": ["LEARNING"],
                "timeout_s": 60,
            }
        }
        line.settings["http"] = {"listen": f"127.0.0.1:{free_port()}"}
        line.start()
        with FramePublisher(line.endpoint, "cam2", category="tile", mode="connect") as camera:
            assert camera.wait_for_subscriber(10)
            camera.send(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
            wait_until(lambda: line.count("SELECT count(*) FROM inspection") == 1, "the row")
        for _ in range(50):
            time.sleep(1)
            with urlopen(f"http://{line.settings['http']['listen']}/livez") as answer:
                assert answer.status == 200
        assert line.stop() == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
