"""Where blocks run in 16 bits, a method's large products do too, and nothing behind them does."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from zsad.backbone import Backbone
from zsad.build import build_detector
from zsad.config.method import MethodConfig
from zsad.detector import Detector

NAMES = ["metal nut", "woven fabric", "metal nut"]
METHODS: list[dict[str, Any]] = [
    {"method": "aa_clip"},
    {"method": "afr_clip"},
    {"method": "afr_clip", "stage_adapter": "ln_post_linear", "image_score": "patch_mean"},
    {"method": "afr_clip", "cmfr_kernel": 3, "cmfr_order": "linear_last"},
    {"method": "mfp_clip"},
]
VIEWS = {"flatten", "permute", "reshape", "to", "transpose", "unbind", "unsqueeze"}
MAY_BE_HALVED = VIEWS | {
    "linear",
    "conv2d",
    "scaled_dot_product_attention",
    "gelu",
    "leaky_relu",
    "relu",
    "add",  # to the residual stream, which is float32
}


class Watched(TorchDispatchMode):
    """Notes what operators compute with.

    Attributes:
        types: (operator, type of a tensor that enters).
        exact_rows: Rows of all products in float32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.types: set[tuple[str, torch.dtype]] = set()
        self.exact_rows: list[int] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        self.types |= {(name, x.dtype) for x in tree_iter((args, kwargs)) if torch.is_tensor(x)}
        if name == "linear" and args[0].dtype is torch.float32:
            self.exact_rows.append(args[0].shape[:-1].numel())
        return func(*args, **(kwargs or {}))

    @property
    def halved(self) -> set[str]:
        """Operators that something of 16 bits entered."""
        return {name for name, dtype in self.types if dtype is torch.bfloat16}


@pytest.fixture(params=METHODS, ids=lambda options: "-".join(map(str, options.values())))
def detector(request: pytest.FixtureRequest, backbone: Backbone) -> Detector:
    config: MethodConfig = TypeAdapter(MethodConfig).validate_python(request.param)
    return build_detector(config, backbone, seed=3)


def test_large_products_are_of_16_bits_and_all_that_magnifies_their_error_is_not(
    detector: Detector, images: Tensor
) -> None:
    detector.predict(images, NAMES)  # category texts are kept from now on

    with detector.backbone.executing(half=torch.bfloat16), Watched() as watched:
        detector.predict(images, NAMES)

    n_patches = len(images) * detector.backbone.grid**2
    assert max(watched.exact_rows, default=0) < n_patches
    assert watched.halved <= MAY_BE_HALVED


def test_16_bits_stay_within_the_tolerance_and_leave_float32_as_it_was(
    detector: Detector, images: Tensor
) -> None:
    exact = detector.predict(images, NAMES)
    with detector.backbone.executing(half=torch.bfloat16):
        near = detector.predict(images, NAMES)
    with detector.backbone.executing(), Watched() as watched:
        again = detector.predict(images, NAMES)

    assert not torch.equal(near.anomaly_map, exact.anomaly_map)
    torch.testing.assert_close(near.image_score, exact.image_score, atol=1e-2, rtol=0)
    torch.testing.assert_close(near.anomaly_map, exact.anomaly_map, atol=2e-2, rtol=0)
    assert not watched.halved
    assert torch.equal(again.image_score, exact.image_score)
    assert torch.equal(again.anomaly_map, exact.anomaly_map)


def test_only_inference_in_this_thread_is_halved(backbone: Backbone) -> None:
    a = torch.ones(2, 2)
    found: dict[str, torch.dtype] = {}

    def multiply(where: str) -> None:
        found[where] = F.linear(a, a).dtype

    with backbone.executing(half=torch.bfloat16):
        with backbone.multiplying_as_blocks():
            multiply("training")
        with torch.inference_mode(), backbone.multiplying_as_blocks():
            multiply("here")
            other = threading.Thread(target=multiply, args=["other thread"])
            other.start()
            other.join()
        exactly = backbone.executing_exactly()
        with torch.inference_mode(), exactly, backbone.multiplying_as_blocks():
            multiply("exactly")
    multiply("afterwards")

    assert [where for where, dtype in found.items() if dtype is not torch.float32] == ["here"]
    assert found["here"] is torch.bfloat16
