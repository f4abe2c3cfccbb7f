"""What every parity test shares: synthetic full-size networks and comparison with a reference."""

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from synthetic_case import SyntheticCase, clip_tensors, described_sizes, described_tensors
from torch import Tensor

from zsad.backbone import Backbone
from zsad.config.backbone import BackboneConfig

TIE = 1e-4  # values nearer than this may change places
HERE = Path(__file__).parent
LAYERS = (6, 12, 18, 24)  # 1-based, as the references name the stages of 24 blocks
NETWORKS = {"ViT-L-14-336": "clip_l14", "ViT-B-16-plus-240": "clip_b16plus_240"}


@dataclass(frozen=True)
class CaseSettings:
    prefix: str
    side: int
    labels: tuple[int, ...]
    names: tuple[str, ...]  # one an image
    trainable: tuple[tuple[str, tuple[int, ...], float, float], ...]  # name, shape, mean, std
    extra: str  # JSON of what only this method's reference says
    networks: str = "{}"  # JSON of networks other than the full-size ones, as common.json has them

    @classmethod
    def of(cls, reference: dict[str, Any], extra: dict[str, Any] | None = None) -> "CaseSettings":
        """Settings of a pinned file, or of what `read_reference` gives."""
        case = reference["case"]
        return cls(
            prefix=case["seed_prefix"],
            side=case["image_side"],
            labels=tuple(case["labels"]),
            names=tuple(case["object_names"]),
            trainable=tuple(
                (name, tuple(rule["shape"]), float(rule["mean"]), float(rule["std"]))
                for name, rule in reference["trainable"].items()
            ),
            extra=json.dumps(extra or {}, sort_keys=True),
            networks=json.dumps(reference.get("networks", {}), sort_keys=True),
        )

    @property
    def case(self) -> SyntheticCase:
        return SyntheticCase(self.prefix)

    def images(self, patch: int = 14) -> Tensor:
        return self.case.images(self.side, len(self.names), patch)

    def masks(self) -> Tensor:
        return self.case.masks(self.side, list(self.labels))

    def trained(self, names: Callable[[str], str]) -> dict[str, Tensor]:
        """The trainable tensors under the names that `names` makes of the reference's."""
        return {
            names(name): self.case.tensor(name, shape, mean, std)
            for name, shape, mean, std in self.trainable
        }


@dataclass(frozen=True)
class CaseResults:
    """`gradients` by the reference's names; `ordered` has what each array of indices orders."""

    arrays: dict[str, Tensor]
    losses: dict[str, float]
    gradients: dict[str, Tensor]
    ordered: dict[str, Tensor] = field(default_factory=dict)


@functools.cache
def network_weights(prefix: str, model: str, networks: str) -> dict[str, Tensor]:
    """Made once a session; backbones share them and never write to them."""
    case, described = SyntheticCase(prefix), json.loads(networks)
    other = described.get(NETWORKS[model])
    rules = clip_tensors(model) if other is None else described_tensors(other)
    return {
        name: case.tensor(f"{NETWORKS[model]}.{name}", shape, mean, std)
        for name, shape, mean, std in rules
    }


def synthetic_backbone(
    settings: CaseSettings, model: str = "ViT-L-14-336", **options: object
) -> Backbone:
    other = json.loads(settings.networks).get(NETWORKS[model])
    sizes = open_clip.get_model_config(model) if other is None else described_sizes(other)
    with torch.device("meta"):  # no time spent on weights that are replaced
        clip = open_clip.model.CLIP(**sizes)
    state = network_weights(settings.prefix, model, settings.networks)
    clip.load_state_dict(state | {"logit_scale": torch.zeros(())}, assign=True)
    context = clip.context_length
    clip.attn_mask = torch.full((context, context), float("-inf")).triu_(1)
    config = BackboneConfig.model_validate(
        {"name": f"synthetic-{model}", "image_size": settings.side, **options}
    )
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=context)
    return Backbone(clip, config, (0, 0, 0), (1, 1, 1), tokenizer)


def given_anchors(method: str) -> dict[str, Any]:
    """The text anchors of a whole reference, for `CaseSettings.of`'s extra."""
    folder = reference_folder(method)
    description = json.loads((folder / f"{method}.json").read_text())["arrays"]["anchors"]
    anchors = np.load(folder / f"{method}.npz")["anchors"]
    return {"anchors": anchors.tolist(), "anchors_atol": description["atol"]}


def patch_rows(features: Tensor, channels: int = 4) -> Tensor:
    """Patches 0, P//2, P-1 and every `channels`-th channel of [..., P, D]."""
    patches = features.shape[-2]
    return features[..., [0, patches // 2, patches - 1], ::channels]


def read_pinned(method: str) -> dict[str, Any]:
    pinned: dict[str, Any] = json.loads((HERE / f"{method}_pinned.json").read_text())
    return pinned


def reference_folder(method: str) -> Path:
    beside_checkout = HERE.parents[2] / "shared" / "reference"
    folder = Path(os.environ.get("ZSAD_REFERENCE", beside_checkout))
    if not (folder / f"{method}.npz").is_file():
        pytest.skip(f"no numerical reference in {folder}; set ZSAD_REFERENCE to its folder")
    return folder


def read_reference(method: str) -> dict[str, Any]:
    """What a reference folder says of a method, with the networks that are not the full-size ones.

    Any folder of this format will do: seeds, sizes, names and tolerances are read, not known.
    """
    folder = reference_folder(method)
    reference: dict[str, Any] = json.loads((folder / f"{method}.json").read_text())
    described = json.loads((folder / "common.json").read_text())["backbones"]
    return reference | {"networks": differing_networks(described)}


def differing_networks(described: dict[str, Any]) -> dict[str, Any]:
    """Those of common.json's networks that `clip_tensors` does not make."""
    return {
        NETWORKS[model]: described[NETWORKS[model]]
        for model in NETWORKS
        if sorted(described_tensors(described[NETWORKS[model]])) != sorted(clip_tensors(model))
    }


def assert_entries(found: Tensor, wanted: dict[str, Any]) -> None:
    assert list(found.shape) == wanted["shape"]
    entries = found.flatten()[wanted["index"]]
    value = torch.tensor(wanted["value"]).to(entries.dtype)  # indices are integers
    torch.testing.assert_close(entries, value, atol=wanted["atol"], rtol=0)


def assert_gradient(found: Tensor, wanted: dict[str, Any]) -> None:
    norm = torch.linalg.vector_norm(found.double()).item()
    assert norm == pytest.approx(wanted["l2"], rel=wanted["l2_rtol"])
    entries = found.flatten()[wanted["index"]]
    torch.testing.assert_close(
        entries, torch.tensor(wanted["value"]), atol=wanted["value_atol"], rtol=0
    )


def assert_pinned(found: CaseResults, pinned: dict[str, Any]) -> None:
    """Entries of every array, every loss and every gradient of a pinned file."""
    assert found.arrays.keys() == pinned["arrays"].keys()
    for name, wanted in pinned["arrays"].items():
        assert_entries(found.arrays[name], wanted)
    _assert_losses_and_gradients(found, pinned)


def assert_whole_reference(
    method: str, found: CaseResults, reference: dict[str, Any], inputs: tuple[str, ...] = ()
) -> None:
    """Every element of every array; `inputs` are arrays that the case was given."""
    arrays = np.load(reference_folder(method) / f"{method}.npz")
    assert found.arrays.keys() == reference["arrays"].keys() - set(inputs)
    for name, values in found.arrays.items():
        atol = reference["arrays"][name].get("atol")
        if atol is None:
            _assert_order(name, values, torch.from_numpy(arrays[name]), found.ordered[name])
            continue
        np.testing.assert_allclose(values.numpy(), arrays[name], atol=atol, rtol=0, err_msg=name)
    _assert_losses_and_gradients(found, reference)


def _assert_order(name: str, found: Tensor, wanted: Tensor, values: Tensor) -> None:
    """Both index arrays [B, M] put `values` [B, P] into the same order, but for ties."""
    torch.testing.assert_close(
        values.gather(1, found.long()), values.gather(1, wanted.long()), atol=TIE, rtol=0, msg=name
    )


def _assert_losses_and_gradients(found: CaseResults, wanted: dict[str, Any]) -> None:
    assert found.losses.keys() == wanted["losses"].keys()
    for name, loss in wanted["losses"].items():
        assert found.losses[name] == pytest.approx(loss["value"], abs=loss["atol"], rel=0), name
    assert found.gradients.keys() == wanted["gradients"].keys()
    for name, gradient in wanted["gradients"].items():
        assert_gradient(found.gradients[name], gradient)
