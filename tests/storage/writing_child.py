"""A program that writes until it is killed; prints the numbers of every committed batch.

python writing_child.py URL FIRST_SEQ
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from daemon.config.storage import StorageConfig
from daemon.core import FrameId, FrameInfo, Inspection, Region, Thumbnails, Verdict
from daemon.storage.database import open_database
from daemon.storage.writer import Result, Writer


def report(batch: Sequence[Result]) -> None:
    seqs = [item.info.frame_id.seq for item in batch if isinstance(item, Inspection)]
    sys.stdout.write(f"{seqs[0]} {seqs[-1]}\n")
    sys.stdout.flush()


def main(url: str, first_seq: int) -> None:
    engine = open_database(StorageConfig(url=url), Path(), {})
    writer = Writer(engine, line="line1", max_results=256, on_failure=sys.exit, on_commit=report)
    writer.start()
    now, picture = datetime.now(UTC), bytes(8_000)
    for seq in count(first_seq):
        info = FrameInfo(FrameId("cam1", 1, seq), "fabric", now, now, 0.0)
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
    main(sys.argv[1], int(sys.argv[2]))
