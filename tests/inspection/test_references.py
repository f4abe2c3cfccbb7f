"""A line's first OK frames become a bank, and no threshold outlives the bank it was made with."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP

from daemon.config.categories import CategoryConfig
from daemon.config.storage import StorageConfig
from daemon.core import (
    Calibration,
    EventKind,
    Frame,
    FrameId,
    FrameInfo,
    Image,
    Inspection,
    Severity,
    Verdict,
    base_version,
)
from daemon.inspection.calibration_book import CalibrationBook
from daemon.inspection.inspector import Inspector
from daemon.inspection.loop import Result
from daemon.inspection.references import LOOK_EVERY_S, References
from zsad.backbone import Backbone
from zsad.config.aa_clip import AAClipConfig
from zsad.config.backbone import BackboneConfig
from zsad.methods.aa_clip import AAClip
from zsad.predictor import Predictor
from zsad.tiled_prediction import predict_tiled

pytestmark = pytest.mark.usefixtures("one_thread")

NOW = datetime(2026, 1, 31, tzinfo=UTC)
TILE = CategoryConfig(class_name="floor tile", references=3, learn_frames=10)
WHOLE = {"width": 32, "head_width": 16}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """A real detector with small random towers."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        clip = CLIP(
            embed_dim=16,
            vision_cfg={**WHOLE, "layers": 4, "patch_size": 8, "image_size": 32},
            text_cfg={"width": 32, "heads": 2, "layers": 4, "context_length": 77},
        )
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    config = BackboneConfig.model_validate({"name": "tiny-random"})
    backbone = Backbone(clip.eval(), config, mean, std, open_clip.tokenizer.SimpleTokenizer())
    detector = AAClip(backbone, AAClipConfig())
    return Predictor(detector, mean, std, torch.device("cpu"), "m1")


class Line:
    """Inspector, book and banks joined as in the daemon; the clock moves by hand."""

    def __init__(self, predictor: Predictor, folder: Path, tile: CategoryConfig = TILE) -> None:
        self.predictor = predictor
        self.categories: Mapping[str, CategoryConfig] = {"tile": tile}
        self.now_s = 0.0
        self.seq = 0
        self.references = References(
            predictor,
            self.categories,
            folder,
            max_batch=4,
            on_batch=lambda: None,
            clock=lambda: self.now_s,
            now=lambda: NOW,
        )
        self.book = CalibrationBook(
            model_version="m1",
            categories=self.categories,
            calibrations=(),
            learned={},
            now=lambda: NOW,
            variants={"tile": self.references.version_of("tile")},
        )
        self.inspector = Inspector(
            infer=self.infer,
            categories=self.categories,
            storage=StorageConfig(url="sqlite://", thumbnails=()),
            book=self.book,
            clock=lambda: self.now_s,
            now=lambda: NOW,
            on_batch=lambda frames: None,
            tell=lambda inspection: None,
            banks=self,
        )

    def infer(self, images, products):  # type: ignore[no-untyped-def]
        names = [category.class_name for _, category in products]
        banks = [self.references.bank_of(name) for name, _ in products]
        tilings = [None] * len(images)
        return predict_tiled(self.predictor, images, names, tilings, banks, max_batch=4)

    def take_over(self, categories: Mapping[str, CategoryConfig]) -> Mapping[str, str]:
        before = {name: self.references.version_of(name) for name in categories}
        self.references.take_over(categories)
        after = {name: self.references.version_of(name) for name in categories}
        return {name: version for name, version in after.items() if version != before[name]}

    def offer(self, name: str, category: CategoryConfig, image: Image) -> bool:
        return self.references.offer(name, [image])

    def inspect(self, count: int) -> list[Result]:
        frames = []
        for _ in range(count):
            self.seq += 1
            image = np.random.default_rng(self.seq).integers(90, 130, (40, 40, 3), np.uint8)
            info = FrameInfo(FrameId("cam", 1, self.seq), "tile", NOW, NOW, 0.0)
            frames.append(Frame(info, image))
        return self.inspector.inspect(frames)

    def bank_is_made(self) -> None:
        self.references.close()


@pytest.fixture
def open_line(predictor: Predictor, tmp_path: Path) -> Iterator[Callable[..., Line]]:
    lines: list[Line] = []

    def make(tile: CategoryConfig = TILE, folder: Path = tmp_path) -> Line:
        lines.append(Line(predictor, folder, tile))
        return lines[-1]

    yield make
    for line in lines:
        line.references.close()


def versions(results: list[Result]) -> list[str]:
    return [result.model_version for result in results if isinstance(result, Inspection)]


def verdicts(results: list[Result]) -> set[Verdict]:
    return {result.verdict for result in results if isinstance(result, Inspection)}


def calibrations(results: list[Result]) -> list[Calibration]:
    return [result for result in results if isinstance(result, Calibration)]


def learn_bank(line: Line) -> str:
    """Three frames, and the bank of them; its version."""
    line.inspect(3)
    line.bank_is_made()
    line.inspect(1)
    return line.book.version("tile")


def test_first_frames_make_the_bank_and_only_the_next_ones_the_thresholds(
    open_line: Callable[..., Line],
) -> None:
    line = open_line()

    first = line.inspect(3)
    line.bank_is_made()
    then = line.inspect(10)
    after = line.inspect(2)

    assert set(versions(first)) == {"m1+refs-none"}
    (version,) = set(versions(then + after))
    assert base_version(version) == "m1"
    assert version not in ("m1", "m1+refs-none")
    assert verdicts(first + then) == {Verdict.LEARNING}
    assert calibrations(first) == []
    (made,) = calibrations(then)
    assert made.model_version == version
    assert made.n_frames == 10
    assert Verdict.LEARNING not in verdicts(after)
    (event,) = line.references.events()
    assert event.kind is EventKind.REFERENCES_LEARNT
    assert "3 frames" in event.detail


def test_frames_while_the_bank_is_made_teach_nothing(open_line: Callable[..., Line]) -> None:
    line = open_line()

    line.inspect(3)
    waiting = [line.references.offer("tile", [np.zeros((40, 40, 3), np.uint8)]) for _ in range(20)]

    assert all(waiting)
    assert line.book.progress("tile") == (0, 10)


def test_a_restart_finds_the_bank_and_so_its_calibration(open_line: Callable[..., Line]) -> None:
    version = learn_bank(open_line())

    again = open_line()

    assert again.book.version("tile") == version
    assert verdicts(again.inspect(1)) == {Verdict.LEARNING}
    assert again.references.offer("tile", []) is False


def test_a_damaged_bank_is_an_alarm_and_the_category_learns_again(
    open_line: Callable[..., Line], tmp_path: Path
) -> None:
    old = learn_bank(open_line())
    (path,) = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 0xFF
    path.write_bytes(content)

    line = open_line()

    (event,) = line.references.events()
    assert event.kind is EventKind.REFERENCES_BAD
    assert event.severity is Severity.ALARM
    assert "SHA-256" in event.detail
    assert versions(line.inspect(1)) == ["m1+refs-none"]
    line.inspect(2)
    line.bank_is_made()
    assert versions(line.inspect(1)) == [old]  # the same frames make the same bank


def test_a_bank_that_another_process_wrote_puts_the_category_back_to_learning(
    open_line: Callable[..., Line],
) -> None:
    line = open_line()
    first = learn_bank(line)
    (made,) = calibrations(line.inspect(10))
    writer = open_line()
    writer.references.learn("tile", [[np.full((40, 40, 3), n, np.uint8)] for n in (60, 90, 120)])
    writer.references.keep("tile")

    before = line.inspect(1)
    line.now_s += LOOK_EVERY_S
    after = line.inspect(1)

    assert versions(before) == [first] == [made.model_version]
    assert versions(after) == [writer.references.version_of("tile")]
    assert verdicts(after) == {Verdict.LEARNING}
    assert line.book.replace([made]) == []  # thresholds of the old bank do not come back


def test_another_recipe_needs_another_bank(open_line: Callable[..., Line]) -> None:
    line = open_line()
    first = learn_bank(line)

    line.inspector.follow(
        {"tile": TILE.model_copy(update={"min_defect_px": 10})}, StorageConfig(url="sqlite://")
    )
    tiled = line.inspect(1)
    line.inspector.follow(line.categories, StorageConfig(url="sqlite://"))
    back = line.inspect(1)

    assert versions(tiled) == ["m1+refs-none"]
    assert versions(back) == [first]


def test_references_that_are_switched_off_are_not_used(open_line: Callable[..., Line]) -> None:
    line = open_line()
    learn_bank(line)

    off = TILE.model_copy(update={"references": 0})
    line.inspector.follow({"tile": off}, StorageConfig(url="sqlite://"))

    assert versions(line.inspect(1)) == ["m1"]


def test_a_category_that_does_not_learn_by_itself_waits_for_calibrate(
    open_line: Callable[..., Line], tmp_path: Path
) -> None:
    line = open_line(CategoryConfig(class_name="floor tile", references=3))

    results = line.inspect(20)
    line.bank_is_made()

    assert set(versions(results + line.inspect(1))) == {"m1+refs-none"}
    assert list(tmp_path.iterdir()) == []


def test_a_bank_that_cannot_be_kept_serves_and_raises_an_alarm(
    open_line: Callable[..., Line], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    line = open_line(folder=tmp_path / "file" / "banks")

    version = learn_bank(line)

    assert version not in ("m1", "m1+refs-none")
    learnt, alarm = line.references.events()
    assert learnt.severity is Severity.INFO
    assert alarm.severity is Severity.ALARM
    assert "after a restart" in alarm.detail
