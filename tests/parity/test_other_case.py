"""A reference folder with other seeds, sizes, names and networks is read, not known.

The folder is made by this package itself, so only the reading and the comparing are tested here.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aa_clip_case
import anomaly_clip_case
import fa_prompt_case
import numpy as np
import pytest
import torch
from reference_case import (
    NETWORKS,
    CaseResults,
    CaseSettings,
    assert_whole_reference,
    read_pinned,
    read_reference,
)
from synthetic_case import clip_tensors

pytestmark = [pytest.mark.parity, pytest.mark.soak, pytest.mark.timeout(300)]

CASE = {
    "seed_prefix": "other:",
    "image_side": 112,
    "labels": [0, 1],
    "object_names": ["metal_nut", "brain"],
}
PHRASES = {"brain": "scan", "metal_nut": "metal nut which has four notched edges"}
RUNS: dict[str, Callable[[CaseSettings], CaseResults]] = {
    "aa_clip": aa_clip_case.run_case,
    "anomaly_clip": anomaly_clip_case.run_case,
    "fa_prompt": fa_prompt_case.run_case,
}
ATOL = 1e-5


SMALLER = {1024: 128, 4096: 512, 768: 96, 2304: 288, 3072: 384, 7680: 960, 480: 60}
"""Every width of ViT-L/14@336 and of what is trained on it -> an eighth of it."""


def narrow(shape: Sequence[int]) -> list[int]:
    return [SMALLER.get(size, size) for size in shape]


def describe(model: str, sizes: dict[str, int]) -> dict[str, Any]:
    names = {
        name: {
            "shape": narrow(shape) if model == "ViT-L-14-336" else list(shape),
            "mean": mean,
            "std": std,
        }
        for name, shape, mean, std in clip_tensors(model)
    }
    return {"names": names, **sizes}


@pytest.fixture(scope="module")
def common() -> dict[str, Any]:
    large = {"vision_blocks": 24, "text_blocks": 12, "vision_heads": 2, "text_heads": 2}
    plus = {"vision_blocks": 12, "text_blocks": 12, "vision_heads": 14, "text_heads": 10}
    described = {
        NETWORKS["ViT-L-14-336"]: describe("ViT-L-14-336", large | {"patch": 14}),
        NETWORKS["ViT-B-16-plus-240"]: describe("ViT-B-16-plus-240", plus | {"patch": 16}),
    }
    return {"backbones": described}


def write_reference(folder: Path, method: str, common: dict[str, Any]) -> CaseResults:
    """A folder of the reference's format; what is compared comes from a run."""
    reference: dict[str, Any] = {"case": CASE, "trainable": {}, "phrases": PHRASES}
    for name, rule in read_pinned(method)["trainable"].items():
        reference["trainable"][name] = rule | {"shape": narrow(rule["shape"])}
    (folder / "common.json").write_text(json.dumps(common))
    (folder / f"{method}.json").write_text(json.dumps(reference))
    np.savez(folder / f"{method}.npz")
    found = RUNS[method](settings_of(method))

    reference["arrays"] = {
        name: {} if name in found.ordered else {"atol": ATOL} for name in found.arrays
    }
    reference["losses"] = {name: {"value": v, "atol": ATOL} for name, v in found.losses.items()}
    reference["gradients"] = {
        name: {
            "l2": torch.linalg.vector_norm(gradient.double()).item(),
            "l2_rtol": 1e-4,
            "index": [0],
            "value": gradient.flatten()[:1].tolist(),
            "value_atol": ATOL,
        }
        for name, gradient in found.gradients.items()
    }
    (folder / f"{method}.json").write_text(json.dumps(reference))
    np.savez(folder / f"{method}.npz", **{k: v.numpy() for k, v in found.arrays.items()})
    return found


def settings_of(method: str) -> CaseSettings:
    return CaseSettings.of(read_reference(method), {"phrases": PHRASES})


@pytest.mark.parametrize("method", RUNS)
def test_another_folder_is_read_and_met_and_a_wrong_number_is_noticed(
    method: str, common: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZSAD_REFERENCE", str(tmp_path))
    found = write_reference(tmp_path, method, common)

    reference, settings = read_reference(method), settings_of(method)

    assert (settings.prefix, settings.side, settings.labels) == ("other:", 112, (0, 1))
    assert list(reference["networks"]) == ["clip_l14"]
    grids = found.arrays.get("grids", found.arrays.get("grid_plain"))
    assert grids is not None
    assert grids.shape[-2:] == (8, 8)
    assert_whole_reference(method, found, reference)
    name = next(iter(reference["losses"]))
    reference["losses"][name]["value"] += 1e-3
    with pytest.raises(AssertionError, match=name):
        assert_whole_reference(method, found, reference)
