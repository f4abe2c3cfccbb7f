"""Tells systemd how the service is: sd_notify(3) by hand, over its datagram socket."""

import logging
import os
import socket
import time
from collections.abc import Mapping

logger = logging.getLogger(__name__)


class ServiceNotifier:
    """Sends state to the socket in NOTIFY_SOCKET; does nothing where there is none.

    A notification that cannot be sent is logged and forgotten: if systemd really no longer
    hears the service, its watchdog restarts it.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        address = (os.environ if environ is None else environ).get("NOTIFY_SOCKET", "")
        # a leading '@' stands for the NUL byte of Linux' abstract socket names
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def ready(self, status: str) -> None:
        """Start-up, or a reload, is complete."""
        self._send("READY=1", f"STATUS={status}")

    def extend_start(self, within_s: float, status: str) -> None:
        """Start-up takes longer than the unit's TimeoutStartSec, but no longer than this."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(within_s * 1e6)}", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload has begun; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def watchdog(self) -> None:
        """Still making progress; call only from the place that proves it."""
        self._send("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        """The stop has begun."""
        self._send("STOPPING=1", f"STATUS={status}")

    def _send(self, *assignments: str) -> None:
        if not self._address:
            return
        # one assignment a line: a line break inside a status text must not start another
        message = "\n".join(" ".join(assignment.splitlines()) for assignment in assignments)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError as error:
            logger.warning("systemd not notified", extra={"error": str(error)})
