"""Wakes a thread that waits for sockets; knows nothing of what for."""

import contextlib
import socket


class WakePipe:
    """A file descriptor to poll beside sockets; any thread makes it readable."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    @property
    def fd(self) -> int:
        """Readable from `wake` until `clear`."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Make it readable; does nothing when it is already, or closed."""
        with contextlib.suppress(OSError):  # full: a wake-up waits already
            self._writer.send(b"\0")

    def clear(self) -> None:
        """Forget the wake-ups so far."""
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass

    def close(self) -> None:
        """Give the descriptors back."""
        self._reader.close()
        self._writer.close()
