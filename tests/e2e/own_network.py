"""Runs the daemon in a network of its own, where an address comes up when it is asked for.

Called as a program: `own_network.py FOLDER WORDS...` is `zsad WORDS...` there. Once the file
FOLDER/up is there, the machine gets the address, and one frame is sent to port 5555 of it.
"""

import ctypes
import fcntl
import os
import socket
import struct
import sys
import threading
from pathlib import Path

NO_RIGHT = 77
ADDRESS = "192.0.2.1"  # for documentation: nobody has it
PORT = 5555
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCSIFFLAGS, _SIOCSIFADDR, _IFF_UP = 0x8914, 0x8916, 1


def leave() -> None:
    """Into a network that has a loopback and nothing else."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        sys.exit(NO_RIGHT)
    _ask_kernel(_SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def bring_up() -> None:
    address = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(ADDRESS))
    _ask_kernel(_SIOCSIFADDR, struct.pack("16s16s", b"lo:1", address))


def _ask_kernel(request: int, interface: bytes) -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, request, interface)


def send_once_it_is_up(folder: Path) -> None:
    from daemon.ingest.publisher import FramePublisher

    parent, pause = os.getppid(), threading.Event()
    while not (folder / "up").exists():
        pause.wait(0.05)
        if os.getppid() != parent:
            return
    bring_up()
    with FramePublisher(f"tcp://{ADDRESS}:{PORT}", "cam2", socket="push", mode="connect") as late:
        late.send_encoded((folder / "image.jpg").read_bytes(), "jpeg")


def main() -> None:
    folder, words = Path(sys.argv[1]), sys.argv[2:]
    leave()
    if os.fork() == 0:
        send_once_it_is_up(folder)
        os._exit(0)
    from daemon.cli.main import main as zsad

    sys.exit(zsad(words))


if __name__ == "__main__":
    main()
