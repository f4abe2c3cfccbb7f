"""A program that writes until it is killed; prints the numbers of every safe batch.

python writing_child.py URL FIRST_SEQ SPOOL
"""

import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from daemon.config.storage import StorageConfig
from daemon.core import FrameId, FrameInfo, Inspection, Region, Thumbnails, Verdict
from daemon.storage.batch import Result
from daemon.storage.database import open_database
from daemon.storage.replay import replay
from daemon.storage.spool import Spool
from daemon.storage.writer import Writer

IN_FLIGHT = 200
"""More than half of the queue, so that a part goes through the spool."""


def report(batch: Sequence[Result]) -> None:
    seqs = [item.info.frame_id.seq for item in batch if isinstance(item, Inspection)]
    if seqs:
        sys.stdout.write(f"{seqs[0]} {seqs[-1]}\n")
        sys.stdout.flush()


def main(url: str, first_seq: int, folder: Path) -> None:
    engine = open_database(StorageConfig(url=url), Path(), {})
    in_flight = threading.Semaphore(IN_FLIGHT)

    def committed(batch: Sequence[Result]) -> None:
        report(batch)
        in_flight.release(sum(isinstance(item, Inspection) for item in batch) or 1)

    spool = Spool(folder, 256 << 20)
    spool.open()
    replay(engine, spool, stop=threading.Event())
    writer = Writer(
        engine,
        line="line1",
        spool=spool,
        reserve_bytes=0,
        max_results=256,
        on_failure=sys.exit,
        on_commit=committed,
        on_spooled=report,
    )
    writer.start()
    now, picture = datetime.now(UTC), bytes(8_000)
    for seq in count(first_seq):
        info = FrameInfo(FrameId("cam1", 1, seq), "fabric", now, now, 0.0)
        in_flight.acquire()
        writer.put(
            Inspection(
                info,
                Verdict.NG,
                "aa-clip-1",
                now,
                0.04,
                regions=(Region(0, 0, 1, 1, 1, 0.9), Region(2, 2, 1, 1, 1, 0.8)),
                thumbnails=Thumbnails(picture, picture, picture),
            )
        )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
