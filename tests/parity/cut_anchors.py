"""Text anchors as a numerical reference has them for the long prompt ensemble.

References cut the context of a class's sentences, which is exact behind the longest one. The pinned
reference cut where its longest abnormal sentence ends: the few normal sentences that are longer
lose their last words there, and are read at their largest token. The released code and this package
cut nothing. Where another reference cut is read off its own anchors: only a cut that gives both
anchors of a class within tolerance is taken, and no cut at all is among those tried.
"""

import functools
import json
from dataclasses import replace

import pytest
import torch
from reference_case import CaseSettings, synthetic_backbone
from torch import Tensor
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.prompts import APRIL_GAN_ENSEMBLE
from zsad.text_anchors import TextAnchors

SENTENCES_AT_ONCE = 70


class CutAnchors(TextAnchors):
    """Of settings that `with_cuts` made."""

    def __init__(self, settings: CaseSettings, backbone: Backbone) -> None:
        super().__init__(backbone, APRIL_GAN_ENSEMBLE.sentences)
        self._settings = settings
        self._cuts: dict[str, int] = json.loads(settings.extra)["cuts"]

    def _encode(self, class_name: str) -> Tensor:
        return cut_anchors(_alone(self._settings), class_name, self._cuts[class_name])


def with_cuts(settings: CaseSettings) -> CaseSettings:
    """The settings with a length for each class in the place of a whole reference's anchors.

    So a whole reference that cuts as the pinned one is the same case, which runs once.
    """
    extra = json.loads(settings.extra)
    anchors, atol = extra.pop("anchors", None), extra.pop("anchors_atol", None)
    classes = sorted(set(settings.names))
    extra["cuts"] = {
        name: _cut(settings, name, None if anchors is None else torch.tensor(anchors[index]), atol)
        for index, name in enumerate(classes)
    }
    return replace(settings, extra=json.dumps(extra, sort_keys=True))


def _cut(settings: CaseSettings, class_name: str, wanted: Tensor | None, atol: float) -> int:
    tokenizer = synthetic_backbone(settings, activation="gelu").tokenizer
    normal, abnormal = (
        (tokenizer(sentences).argmax(dim=-1) + 1).tolist()
        for sentences in APRIL_GAN_ENSEMBLE.sentences(class_name)
    )  # tokens of every sentence, start and end included
    if wanted is None:
        return max(abnormal)
    longest = max(normal + abnormal)
    for length in dict.fromkeys([max(abnormal), longest, *range(longest - 1, 4, -1)]):
        found = cut_anchors(_alone(settings), class_name, length)
        if (F.normalize(found, dim=-1) - wanted).abs().max() <= atol:
            return length
    pytest.fail(f"no cut of the context gives the reference's anchors of {class_name!r}")


def _alone(settings: CaseSettings) -> CaseSettings:
    """Of the network only: texts do not depend on images."""
    return replace(settings, labels=(), names=(), trainable=(), extra="{}")


@functools.cache
def cut_anchors(settings: CaseSettings, class_name: str, length: int) -> Tensor:
    """[2, D]; encoded once a session for all methods that use the ensemble."""
    backbone = synthetic_backbone(settings, activation="gelu")
    with torch.no_grad():
        states = [
            torch.cat(
                [_encode(backbone, part) for part in ids[:, :length].split(SENTENCES_AT_ONCE)]
            )
            for ids in map(backbone.tokenizer, APRIL_GAN_ENSEMBLE.sentences(class_name))
        ]
    return torch.stack([F.normalize(rows, dim=-1).mean(dim=0) for rows in states])


def _encode(backbone: Backbone, token_ids: Tensor) -> Tensor:
    tokens = backbone.run_text(backbone.embed_text(token_ids))
    end = token_ids.argmax(dim=-1)
    return tokens[torch.arange(len(tokens)), end] @ backbone.text_projection
