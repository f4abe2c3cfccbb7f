import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.service_notify import ServiceNotifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The manager's end, and its address as NOTIFY_SOCKET has it."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@zsad-test-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0", 1) if request.param == "abstract" else address)
        manager.settimeout(5)
        yield manager, address


def test_each_state_arrives_as_systemd_expects_it(systemd: tuple[socket.socket, str]) -> None:
    manager, address = systemd
    notifier = ServiceNotifier({"NOTIFY_SOCKET": address})

    notifier.extend_start(1.5, "compiling")
    notifier.ready("inspecting")
    notifier.status("12 frames/s")
    notifier.watchdog()
    notifier.stopping("draining")

    assert [manager.recv(4096) for _ in range(5)] == [
        b"EXTEND_TIMEOUT_USEC=1500000\nSTATUS=compiling",
        b"READY=1\nSTATUS=inspecting",
        b"STATUS=12 frames/s",
        b"WATCHDOG=1",
        b"STOPPING=1\nSTATUS=draining",
    ]


def test_a_reload_names_its_moment_by_the_monotonic_clock(
    systemd: tuple[socket.socket, str],
) -> None:
    manager, address = systemd
    before = time.monotonic_ns() // 1000

    ServiceNotifier({"NOTIFY_SOCKET": address}).reloading()

    state, _, moment = manager.recv(4096).decode().partition("\nMONOTONIC_USEC=")
    assert state == "RELOADING=1"
    assert before <= int(moment) <= time.monotonic_ns() // 1000


def test_a_status_cannot_smuggle_a_second_assignment(systemd: tuple[socket.socket, str]) -> None:
    manager, address = systemd

    ServiceNotifier({"NOTIFY_SOCKET": address}).status("model x\nMAINPID=1")

    assert manager.recv(4096) == b"STATUS=model x MAINPID=1"


def test_without_a_socket_nothing_happens() -> None:
    ServiceNotifier({}).ready("inspecting")


def test_a_vanished_manager_costs_a_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        ServiceNotifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).watchdog()

    assert [record.message for record in caplog.records] == ["systemd not notified"]
