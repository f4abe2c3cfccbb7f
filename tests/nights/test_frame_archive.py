"""The frame archive: what the policy wants is on the disk as it came, and nothing waits for it."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from night_frames import LINE, NOW, inspection, jpeg

from daemon import frame_archive
from daemon.config.frames import FramesConfig
from daemon.config.recipe import RoiConfig
from daemon.core import (
    Event,
    EventKind,
    Frame,
    FrameId,
    ImageFile,
    KeptFrame,
    Severity,
    Verdict,
)
from daemon.errors import StorageError
from daemon.frame_archive import ArchiveCounters, FrameArchive, LossSpell
from daemon.inspection.pictures import Undrawn
from daemon.storage.batch import Batch, Run
from daemon.storage.frame_folder import digest
from daemon.storage.spool_record import decode, encode
from zsad.anomaly_map import AnomalyMap
from zsad.image_files import load_image

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def frame(seq: int = 0, file: ImageFile | None = None) -> Frame:
    return Frame(inspection(seq).info, PIXELS, file=file)


@pytest.fixture
def kept() -> list[KeptFrame]:
    return []


@pytest.fixture
def open_archive(tmp_path: Path, kept: list[KeptFrame]) -> Callable[..., FrameArchive]:
    def open_with(**changes: object) -> FrameArchive:
        arguments = {
            "line": LINE,
            "reserve_bytes": 0,
            "put": kept.append,
            "clock": lambda: 0.0,
            "now": lambda: NOW,
        }
        config = FramesConfig(
            dir=tmp_path / "frames",
            **{key: changes.pop(key) for key in list(changes) if key in FramesConfig.model_fields},
        )
        return FrameArchive(config, **(arguments | changes))

    return open_with


OpenArchive = Callable[..., FrameArchive]


def write_all(archive: FrameArchive) -> None:
    """What a thread does until it is stopped, in this one."""
    stop = threading.Event()
    stop.set()
    archive.run(stop)


@pytest.mark.parametrize(
    ("suffix", "data"), [("jpg", jpeg(1)), ("png", memoryview(cv2.imencode(".png", PIXELS)[1]))]
)
def test_a_file_is_kept_byte_for_byte(
    open_archive: OpenArchive,
    kept: list[KeptFrame],
    tmp_path: Path,
    suffix: str,
    data: bytes | memoryview,
) -> None:
    archive = open_archive()

    archive.offer(frame(5, ImageFile(suffix, data)), Verdict.NG)
    write_all(archive)

    (row,) = kept
    assert row.path == f"frames/line1/cam1/2026-11-22/01/cam1-7-5.{suffix}"
    assert (tmp_path / "frames" / row.path).read_bytes() == bytes(data)
    assert (row.n_bytes, row.sha256) == (len(data), digest(bytes(data)))
    assert (row.verdict, row.category, row.received_utc) == (Verdict.NG, "fabric", NOW)
    assert archive.counters == ArchiveCounters(kept=1)


@pytest.mark.parametrize("is_grey", [False, True])
def test_raw_pixels_become_a_png_of_the_same_pixels(
    open_archive: OpenArchive, kept: list[KeptFrame], tmp_path: Path, is_grey: bool
) -> None:
    archive = open_archive()
    image = np.repeat(PIXELS[:, :, :1], 3, axis=2) if is_grey else PIXELS

    archive.offer(replace(frame(), image=image), Verdict.LEARNING)
    write_all(archive)

    file = tmp_path / "frames" / kept[0].path
    assert np.array_equal(load_image(file), image)
    stored = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    assert stored.ndim == (2 if is_grey else 3)


def test_the_policy_chooses_by_verdict_and_draws_of_the_ok_frames(
    open_archive: OpenArchive, kept: list[KeptFrame]
) -> None:
    draws = iter([0.0, 0.3, 0.24])
    archive = open_archive(keep=("NG",), keep_one_ok_of=4, draw=lambda: next(draws))

    for seq, verdict in enumerate(
        (
            *(Verdict.NG, Verdict.REVIEW, Verdict.LEARNING, Verdict.ERROR),
            *(Verdict.OK, Verdict.OK, Verdict.OK),
        )
    ):
        archive.offer(frame(seq), verdict)
    write_all(archive)

    assert [row.frame_id.seq for row in kept] == [0, 2, 4, 6]


def test_a_slow_disk_costs_frames_and_never_makes_inspection_wait(
    open_archive: OpenArchive, kept: list[KeptFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_archive, "MAX_WAITING_BYTES", 3 * PIXELS.nbytes)
    archive = open_archive()

    for seq in range(5):  # nobody writes meanwhile
        archive.offer(frame(seq), Verdict.NG)
    write_all(archive)
    archive.offer(frame(9), Verdict.NG)
    write_all(archive)

    assert [row.frame_id.seq for row in kept] == [0, 1, 2, 9]
    assert (archive.counters.kept, archive.counters.not_kept) == (4, 2)
    (event,) = archive.events()
    assert event.kind is EventKind.FRAMES_NOT_KEPT
    assert "wait for the disk, limit 6912: it is too slow" in event.detail


def test_little_room_on_the_disk_costs_ok_frames_first(
    open_archive: OpenArchive, kept: list[KeptFrame], tmp_path: Path
) -> None:
    free = open_archive()._space.free_bytes()
    for reserve_bytes in (free + free // 2, 4 * free):  # touched; more than half gone
        archive = open_archive(reserve_bytes=reserve_bytes, keep_one_ok_of=1)
        for seq, verdict in enumerate((Verdict.OK, Verdict.NG)):
            archive.offer(frame(seq), verdict)
        write_all(archive)

        assert "bytes are free on the disk" in archive.counters.reason
    assert [row.verdict for row in kept] == [Verdict.NG]


def test_a_disk_that_takes_nothing_costs_frames_only(
    open_archive: OpenArchive, kept: list[KeptFrame], tmp_path: Path
) -> None:
    archive = open_archive()
    (tmp_path / "frames" / "frames").write_text("in the way")

    archive.offer(frame(), Verdict.NG)
    write_all(archive)

    assert kept == []
    assert "takes no file" in archive.counters.reason


def test_a_file_is_complete_before_its_row(open_archive: OpenArchive, tmp_path: Path) -> None:
    seen: list[bytes] = []

    def put(row: KeptFrame) -> None:
        seen.append((tmp_path / "frames" / row.path).read_bytes())

    archive = open_archive(put=put)
    archive.offer(frame(1, ImageFile("jpg", jpeg(1))), Verdict.REVIEW)
    write_all(archive)

    assert seen == [jpeg(1)]


def test_a_row_that_cannot_be_put_ends_the_thread_with_its_file_complete(
    open_archive: OpenArchive, tmp_path: Path
) -> None:
    def put(row: KeptFrame) -> None:
        raise StorageError("the writer was stopped")

    archive = open_archive(put=put)
    archive.offer(frame(1, ImageFile("jpg", jpeg(1))), Verdict.REVIEW)

    with pytest.raises(StorageError):
        write_all(archive)

    (file,) = (path for path in (tmp_path / "frames").rglob("*") if path.is_file())
    assert file.read_bytes() == jpeg(1)


def test_frames_of_a_batch_are_offered_with_their_verdicts(
    open_archive: OpenArchive, kept: list[KeptFrame]
) -> None:
    verdicts = [Verdict.NG, Verdict.ERROR, Verdict.REVIEW, Verdict.LEARNING]
    made = [inspection(seq, verdict=verdict) for seq, verdict in enumerate(verdicts)]
    undrawn = Undrawn(made[2], PIXELS, AnomalyMap.of(np.zeros((2, 2), np.float32)), 64, RoiConfig())
    event = Event(EventKind.IMAGES_BAD, Severity.ALARM, NOW, "dark")
    results = [made[0], made[1], event, undrawn, made[3]]
    archive = open_archive()

    found = archive.around(lambda batch: results)([frame(seq) for seq in range(4)])
    write_all(archive)

    assert found == results
    assert [(row.frame_id.seq, row.verdict) for row in kept] == [
        *((0, "NG"), (2, "REVIEW"), (3, "LEARNING"))
    ]


def test_a_kept_frame_waits_in_the_spool_as_it_is() -> None:
    row = KeptFrame(FrameId("cam1", 7, 3), "fabric", Verdict.NG, NOW, "frames/a.jpg", 9, "0" * 64)
    batch = Batch(Run(LINE, NOW), 1, (row,))

    assert decode(encode(batch)) == batch


def test_a_folder_that_cannot_be_made_stops_the_start(
    open_archive: OpenArchive, tmp_path: Path
) -> None:
    (tmp_path / "frames").write_text("a file")

    with pytest.raises(StorageError, match=r"frames\.dir"):
        open_archive()


def test_the_diary_says_when_frames_are_left_out_and_when_no_more() -> None:
    spell = LossSpell()

    def said(not_kept: int, now: float) -> list[str]:
        event = spell.event(ArchiveCounters(0, not_kept, "full"), now, NOW)
        return [] if event is None else [event.detail]

    assert said(0, 0.0) == []
    assert said(2, 1.0) == ["whole frames are not kept: full"]
    assert said(5, 30.0) == []
    assert said(5, 89.0) == []
    assert said(5, 90.0) == ["whole frames are kept again; 5 were left out"]
    assert said(5, 900.0) == []
    assert said(6, 901.0) == ["whole frames are not kept: full"]
    assert said(6, 999.0) == ["whole frames are kept again; 1 were left out"]
