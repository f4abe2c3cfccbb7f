"""A camera program that sends through an outbox until it is told that it is enough.

It may be killed at any moment and started again. What `send` has returned for stands in SENT, a
line an epoch and number, so that a test knows what was promised.
"""

import sys
import threading
from pathlib import Path

import cv2
import numpy as np

from daemon.ingest.reliable_publisher import ReliablePublisher

STORED_WITHIN_S = 90.0


def main(endpoint: str, folder: Path, rate: float) -> int:
    """0 once every frame is stored."""
    pause = threading.Event()
    image = cv2.imencode(".jpg", np.full((48, 64), 127, np.uint8))[1].tobytes()
    with (
        (folder / "sent").open("a", buffering=1) as sent,
        ReliablePublisher(
            endpoint, "cam1", category="tile", outbox=folder / "outbox", send_timeout_s=60.0
        ) as publisher,
    ):
        while not (folder / "enough").exists():
            seq = publisher.send_encoded(image, "jpeg", part_id=f"part-{publisher.next_seq}")
            sent.write(f"{publisher.epoch} {seq}\n")
            pause.wait(1 / rate)
        return 0 if publisher.wait_until_stored(STORED_WITHIN_S) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])))
