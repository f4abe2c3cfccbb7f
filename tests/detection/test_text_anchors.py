"""Texts of a category are encoded once: what is kept equals what is encoded anew."""

import pytest
import torch
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.text_anchors import TextAnchors


def sentences(class_name: str) -> list[list[str]]:
    return [[f"a {class_name}.", f"a good photo of a {class_name}."], [f"a broken {class_name}."]]


def test_kept_anchors_equal_fresh_ones_and_cost_nothing(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    anchors = TextAnchors(backbone, sentences)
    anchors.unit(["screw", "floor tile"])
    fresh = TextAnchors(backbone, sentences).unit(["floor tile"])
    tile = ["a floor tile.", "a good photo of a floor tile.", "a broken floor tile."]
    good, better, broken = F.normalize(backbone.encode_text(tile).detach(), dim=-1)

    def refuse(*_: object) -> None:
        pytest.fail("a known category was encoded again")

    monkeypatch.setattr(backbone, "encode_text", refuse)
    kept = anchors.unit(["floor tile", "screw", "floor tile"])

    assert torch.equal(kept[0], kept[2])
    torch.testing.assert_close(kept[:1], fresh, atol=1e-6, rtol=0)
    written_out = F.normalize(torch.stack([(good + better) / 2, broken]), dim=-1)
    torch.testing.assert_close(kept[0], written_out, atol=1e-5, rtol=0)
    assert (kept[0] - kept[1]).abs().max() > 1e-3
