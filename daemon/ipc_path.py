"""Whether somebody listens at an ipc endpoint: ZeroMQ would take it away from him, and say nothing.

Needs the standard library only, since camera programs import it.
"""

import socket


def is_held(endpoint: str) -> bool:
    """Whether connecting succeeds; what a process left that was killed is free."""
    path = endpoint.removeprefix("ipc://")
    if path == endpoint or path.startswith("@") or path == "*":  # ZeroMQ itself refuses these
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except BlockingIOError:  # its queue of connections is full
            return True
        except (OSError, ValueError):  # nobody, or no such path: binding will say
            return False
    return True
