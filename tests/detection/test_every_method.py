"""What every method promises on inputs that no published setting has: grids, sets and names."""

from typing import Any, get_args

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from pydantic import TypeAdapter
from torch import Tensor

from zsad.backbone import Backbone
from zsad.build import build_detector
from zsad.config.aa_clip import AAClipConfig
from zsad.config.backbone import BackboneConfig
from zsad.config.method import MethodConfig
from zsad.detector import Detector, TrainableDetector
from zsad.methods.linear_probe import LinearProbe

SIDE = 40  # 5 x 5 patches; the tiny backbone is made for 7 x 7
LONG = "top view of three pcb-modules, model 3/B, with the letters 'FF' engraved on each side"
NAMES = ["metal_nut", LONG, "metal_nut", ""]


def every_method() -> list[dict[str, str]]:
    """All methods in all their presets."""
    kinds = get_args(get_args(MethodConfig)[0])
    cases = []
    for kind in kinds:
        method = kind.model_fields["method"].default
        preset = kind.model_fields.get("preset")
        presets = ("paper",) if preset is None else get_args(preset.annotation)
        cases += [{"method": method} | ({"preset": p} if preset else {}) for p in presets]
    return cases


CASES = every_method()


@pytest.fixture(scope="module", params=CASES, ids=str)
def detector(
    request: pytest.FixtureRequest, tiny_config: dict[str, Any], tiny_state: dict[str, Tensor]
) -> Detector:
    """One of each; no test changes its weights, so texts are encoded once."""
    clip = CLIP(**tiny_config)
    clip.load_state_dict(tiny_state)
    backbone = Backbone(
        clip,
        BackboneConfig(name="tiny-random", image_size=SIDE),
        (0.5, 0.4, 0.3),
        (0.2, 0.25, 0.3),
        open_clip.tokenizer.SimpleTokenizer(),
    )
    cheap = {"views": "one"} if request.param["method"] == "anovl" else {}
    config: MethodConfig = TypeAdapter(MethodConfig).validate_python(request.param | cheap)
    return build_detector(config, backbone)


@pytest.fixture
def images() -> Tensor:
    """[4, 3, 40, 40]."""
    return torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(12))


def test_there_are_both_presets_wherever_code_was_released() -> None:
    methods = [case["method"] for case in CASES]
    official = {case["method"] for case in CASES if case.get("preset") == "official"}

    assert len(set(methods)) == 14
    assert {"aa_clip", "fa_prompt", "anomaly_clip", "april_gan", "ada_clip", "mvfa_ad"} <= official
    assert not {"afr_clip", "mfp_clip"} & official


def test_neither_order_nor_company_nor_a_mates_long_name_changes_a_score(
    detector: Detector, images: Tensor
) -> None:
    order = [2, 0, 3, 1]

    together = detector.predict(images, NAMES)
    turned = detector.predict(images[order], [NAMES[row] for row in order])
    alone = detector.predict(images[:1], NAMES[:1])

    assert together.anomaly_map.shape == (4, SIDE, SIDE)
    for values in (together.image_score, together.anomaly_map):
        assert 0 <= values.min() <= values.max() <= 1
    for ours, others in (
        (together.image_score[order], turned.image_score),
        (together.anomaly_map[order], turned.anomaly_map),
        (together.image_score[:1], alone.image_score),
        (together.anomaly_map[:1], alone.anomaly_map),
    ):
        torch.testing.assert_close(ours, others, atol=1e-4, rtol=0)


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], [1]], ids=str)
def test_one_kind_of_image_or_one_image_trains(
    detector: Detector, images: Tensor, labels: list[int]
) -> None:
    if not isinstance(detector, TrainableDetector):
        # a probe has parameters, but no stages: zsad.probe_fit finds them
        assert isinstance(detector, LinearProbe) or not detector.own_parameters()
        return
    target = torch.tensor(labels)
    masks = torch.zeros(len(labels), SIDE, SIDE)
    masks[target == 1, 8:20, 10:30] = 1
    batch = detector.training_batch(images[: len(labels)], masks, target, NAMES[: len(labels)])

    for stage in detector.stages():
        found = stage.losses(batch)
        found.total.backward()

        gradients = [p.grad for p in stage.parameters if p.grad is not None]
        assert torch.isfinite(found.total)
        assert gradients
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_only_aa_clip_has_scores_that_need_a_whole_set(detector: Detector, images: Tensor) -> None:
    config = detector.config
    is_aa_clip = isinstance(config, AAClipConfig)

    found = detector.unscaled(images, NAMES)

    assert (found is not None) == is_aa_clip
    assert detector.ranks_whole_sets == (is_aa_clip and config.preset == "official")
    if found is None:
        with pytest.raises(ValueError, match=f"{config.method} has no scores that need a whole"):
            detector.whole_set_scores(torch.zeros(4, 3))
