"""A device with too little memory for a full batch, and products in 16 bits, in the real slot."""

import copy
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from daemon.config.categories import CategoryConfig
from daemon.config.detector import ModelConfig
from daemon.core import Image
from daemon.errors import ModelError
from daemon.inspection.detector_slot import DetectorSlot
from daemon.inspection.loaded_model import LoadedModel
from zsad.detector import Prediction
from zsad.predictor import Predictor, load_predictor

pytestmark = pytest.mark.usefixtures("one_thread")

TILE = CategoryConfig(class_name="floor tile")
PRODUCT = ("tile", TILE)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_predictor(None, "cpu")


@pytest.fixture
def images() -> list[Image]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(6)]


def with_room_for(most: int, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all passes; more images than `most` really ask torch for too much memory."""
    whole = predictor.detector.predict
    passes: list[int] = []

    def predict(images: Tensor, class_names: Sequence[str]) -> Prediction:
        passes.append(len(images))
        if len(images) > most:
            torch.empty(1 << 50)
        return whole(images, class_names)

    monkeypatch.setattr(predictor.detector, "predict", predict)
    return passes


def test_too_large_a_batch_is_halved_once_for_all(
    predictor: Predictor, images: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = DetectorSlot(ModelConfig(), {"tile": TILE}, max_batch=6, predictor=predictor)
    expected = slot.infer(images, [PRODUCT] * 6)
    passes = with_room_for(2, predictor, monkeypatch)

    found = slot.infer(images, [PRODUCT] * 6)
    first = list(passes)
    slot.infer(images, [PRODUCT] * 6)

    assert first == [6, 3, 1, 1, 1, 1, 1, 1]
    assert passes[len(first) :] == [1] * 6, "the smaller size is remembered"
    assert (slot.memory_shortages, slot.model.max_batch) == (2, 1)
    assert [score for score, _ in found] == pytest.approx([s for s, _ in expected], abs=1e-4)


def test_no_memory_for_one_image_is_an_error(
    predictor: Predictor, images: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LoadedModel(predictor, {"tile": TILE}, None, max_batch=2)
    with_room_for(0, predictor, monkeypatch)

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        model.infer(images[:2], [PRODUCT] * 2)

    assert model.memory_shortages == 2


def test_other_failures_are_not_taken_for_a_lack_of_memory(
    predictor: Predictor, images: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(images: Tensor, class_names: Sequence[str]) -> Prediction:
        raise RuntimeError("device-side assert triggered")

    model = LoadedModel(predictor, {"tile": TILE}, None, max_batch=2)
    monkeypatch.setattr(predictor.detector, "predict", fail)

    with pytest.raises(RuntimeError, match="device-side"):
        model.infer(images[:2], [PRODUCT] * 2)

    assert (model.memory_shortages, model.max_batch) == (0, 2)


def test_bfloat16_stays_within_the_tolerance_and_is_really_used(images: list[Image]) -> None:
    slots = [
        DetectorSlot(ModelConfig(device="cpu", precision=precision), {"tile": TILE}, max_batch=2)
        for precision in ("fp32", "bf16")
    ]

    exact, half = (slot.infer(images[:2], [PRODUCT] * 2) for slot in slots)

    for (score, anomaly_map), (near, near_map) in zip(exact, half, strict=True):
        assert score != near
        assert near == pytest.approx(score, abs=1e-2)
        assert np.abs(near_map.here() - anomaly_map.here()).max() <= 2e-2


def test_one_thread_in_float32_leaves_the_other_in_bfloat16(predictor: Predictor) -> None:
    """A candidate shows its golden images in float32 while the line inspects on its backbone."""
    backbone = copy.copy(predictor.detector.backbone)
    backbone.run_usually_in(torch.bfloat16)
    inside, done = threading.Event(), threading.Event()

    def verify() -> None:
        with backbone.executing():
            inside.set()
            done.wait(10)

    other = threading.Thread(target=verify)
    other.start()
    assert inside.wait(10)
    meanwhile = backbone.half_type
    done.set()
    other.join()

    assert meanwhile is torch.bfloat16
    with backbone.executing():
        assert backbone.half_type is None


def test_float16_on_a_cpu_is_refused_at_the_start(predictor: Predictor) -> None:
    with pytest.raises(ModelError, match="take bf16 or fp32"):
        DetectorSlot(
            ModelConfig(device="cpu", precision="fp16"),
            {"tile": TILE},
            max_batch=2,
            predictor=predictor,
        )


def test_without_a_compiler_the_line_runs_as_before_and_says_so(
    predictor: Predictor, images: list[Image], caplog: pytest.LogCaptureFixture
) -> None:
    import torch._inductor.config

    plain = LoadedModel(predictor, {"tile": TILE}, None, max_batch=2)
    model = LoadedModel(predictor, {"tile": TILE}, None, max_batch=2, compiles=True)
    expected = plain.infer(images[:2], [PRODUCT] * 2)

    with torch._inductor.config.patch({"cpp.cxx": ("/nonexistent/g++",)}):
        model.warm_up(2, ["floor tile"])

    assert model.compile_failures == 1
    (said,) = (r for r in caplog.records if r.message == "blocks are not compiled")
    assert "No working C++ compiler" in said.error
    assert predictor.detector.backbone.compiled is None
    found = model.infer(images[:2], [PRODUCT] * 2)
    assert [score for score, _ in found] == [score for score, _ in expected]
