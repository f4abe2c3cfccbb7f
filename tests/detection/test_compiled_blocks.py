"""Blocks compiled for a few batch sizes; torch's compiler itself runs in the `soak` test alone."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from zsad.backbone import Backbone
from zsad.build import build_detector
from zsad.compile_check import CompileError, compile_blocks
from zsad.config.aa_clip import AAClipConfig
from zsad.config.afr_clip import AFRClipConfig
from zsad.config.anomaly_clip import AnomalyCLIPConfig
from zsad.config.fa_prompt import FAPromptConfig
from zsad.config.method import MethodConfig
from zsad.predictor import Predictor

NAMES = ["metal nut", "wood", "screw"]
METHODS: dict[str, MethodConfig] = {
    "aa_clip": AAClipConfig(),
    "afr_clip": AFRClipConfig(),
    "anomaly_clip": AnomalyCLIPConfig(),
    "fa_prompt": FAPromptConfig(patches=4),
}


@pytest.fixture
def predictor_of(backbone: Backbone) -> Callable[[str], Predictor]:
    def make(method: str) -> Predictor:
        detector = build_detector(METHODS[method], backbone, seed=3)
        return Predictor(detector, backbone.mean, backbone.std, torch.device("cpu"), "test")

    return make


@pytest.fixture
def prepared() -> Tensor:
    return torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(5))


@pytest.fixture(autouse=True)
def stance() -> Iterator[None]:
    yield
    torch.compiler.set_stance("default")


class StandIn:
    """In the place of torch.compile: runs the function, and remembers the batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, factor: float = 1.0) -> None:
        self.batches: list[int] = []
        self.factor = factor
        monkeypatch.setattr(torch, "compile", self.compile)

    def compile(self, part: Callable[..., Any], **how: object) -> Callable[..., Any]:
        assert how == {"dynamic": False, "mode": None}

        def run(block: Any, tokens: Tensor, *tensors: Tensor, **options: bool) -> Any:
            self.batches.append(len(tokens))
            return part(block, tokens * self.factor, *tensors, **options)

        return run


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_filled_up_and_its_rows_are_those_of_its_own_images(
    method: str, predictor_of: Callable[[str], Predictor], prepared: Tensor, monkeypatch
) -> None:
    compiler = StandIn(monkeypatch)
    predictor = predictor_of(method)
    scores, maps = predictor.predict_prepared(prepared, NAMES)

    compile_blocks(predictor, 6, "nut")
    compiler.batches.clear()
    found, found_maps = predictor.predict_prepared(prepared, NAMES)

    assert predictor.detector.backbone.compiled.sizes == (1, 2, 4, 6)
    assert compiler.batches == [4] * 4, "every block ran compiled"
    assert found == pytest.approx(scores, abs=1e-5)
    assert found_maps == pytest.approx(maps, abs=1e-5)


def test_what_was_not_compiled_runs_as_ever(
    predictor_of: Callable[[str], Predictor], prepared: Tensor, monkeypatch
) -> None:
    compiler = StandIn(monkeypatch)
    predictor = predictor_of("aa_clip")
    compile_blocks(predictor, 2, "nut")
    backbone = predictor.detector.backbone
    compiler.batches.clear()

    predictor.predict_prepared(prepared, NAMES)  # larger than any
    with backbone.executing(half=torch.bfloat16):
        predictor.predict_prepared(prepared[:2], NAMES[:2])
    embedded = backbone.embed_images(prepared[:2]).requires_grad_(True)
    backbone.run_vision(embedded, ())

    assert compiler.batches == []


def test_a_result_that_departs_is_not_used(
    predictor_of: Callable[[str], Predictor], monkeypatch
) -> None:
    StandIn(monkeypatch, factor=1.05)
    predictor = predictor_of("aa_clip")

    with pytest.raises(CompileError, match="batches of 1 differ from what they were by"):
        compile_blocks(predictor, 2, "nut")

    assert predictor.detector.backbone.compiled is None


@pytest.mark.soak
@pytest.mark.parametrize("method", ["aa_clip", "fa_prompt"])
def test_torchs_compiler_computes_the_same_and_nothing_is_compiled_afterwards(
    method: str, predictor_of: Callable[[str], Predictor], prepared: Tensor
) -> None:
    predictor = predictor_of(method)
    scores, maps = predictor.predict_prepared(prepared, NAMES)

    compile_blocks(predictor, 4, "nut")
    torch._dynamo.utils.counters.clear()
    found, found_maps = predictor.predict_prepared(prepared, NAMES)
    predictor.predict_prepared(prepared[:1], NAMES[:1])

    assert not torch._dynamo.utils.counters["stats"]
    assert found == pytest.approx(scores, abs=1e-4)
    assert found_maps == pytest.approx(maps, abs=1e-4)
