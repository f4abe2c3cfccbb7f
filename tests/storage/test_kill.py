import os
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine, func, select, text

from daemon.storage import repository
from daemon.storage.replay import replay
from daemon.storage.spool import Spool
from daemon.storage.tables import InspectionRow, RegionRow, ThumbnailRow

CHILD = Path(__file__).with_name("writing_child.py")
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
RESEND = 100
"""Numbers sent again after a kill, as a publisher without an acknowledgement would."""


def write_until_killed(url: str, first_seq: int, folder: Path, batches: int) -> list[int]:
    """Kill -9 a real writing process after some batches; the last number of each it reported."""
    child = subprocess.Popen(
        [sys.executable, CHILD, url, str(first_seq), folder],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with child:
        assert child.stdout is not None
        seen = [child.stdout.readline() for _ in range(batches)]
        child.kill()
        seen += child.stdout.readlines()
    return [int(line.split()[1]) for line in seen if line.endswith("\n")]


def test_kill_9_loses_no_acknowledged_row_and_leaves_no_partial_batch(
    line_engine: Engine, tmp_path: Path
) -> None:
    url = line_engine.url.render_as_string(hide_password=False)
    acknowledged, folder = -1, tmp_path / "spool"
    for batches in (1, 3, 8):
        reported = write_until_killed(url, max(0, acknowledged - RESEND), folder, batches)
        acknowledged = max(reported)
        with closing(Spool(folder, 1 << 30)) as spool:
            spool.open()
            replay(line_engine, spool, stop=threading.Event())

        with line_engine.connect() as connection:
            seqs = connection.scalars(select(InspectionRow.seq).order_by(InspectionRow.seq)).all()
            count = {
                table: connection.scalar(select(func.count()).select_from(table))
                for table in (RegionRow, ThumbnailRow)
            }
            holes = repository.missing_sequences(connection, LONG_AGO)
        assert seqs == list(range(len(seqs)))
        assert len(seqs) > acknowledged
        assert count == {RegionRow: 2 * len(seqs), ThumbnailRow: len(seqs)}
        assert holes == []
        check_integrity(line_engine)


def check_integrity(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            assert connection.scalar(text("PRAGMA integrity_check")) == "ok"
            assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
