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
    def __init__(self, settings: CaseSettings, backbone: Backbone) -> None:
        super().__init__(backbone, APRIL_GAN_ENSEMBLE.sentences)
        self._settings = settings

    def _encode(self, class_name: str) -> Tensor:
        settings = self._settings
        alone = replace(settings, labels=(), names=(), trainable=(), extra="{}")
        extra = json.loads(settings.extra)
        normal, abnormal = (
            (self._backbone.tokenizer(sentences).argmax(dim=-1) + 1).tolist()
            for sentences in APRIL_GAN_ENSEMBLE.sentences(class_name)
        )  # tokens of every sentence, start and end included
        if "anchors" not in extra:
            return cut_anchors(alone, class_name, max(abnormal))
        wanted = torch.tensor(extra["anchors"][sorted(set(settings.names)).index(class_name)])
        longest = max(normal + abnormal)
        for length in dict.fromkeys([max(abnormal), longest, *range(longest - 1, 4, -1)]):
            found = cut_anchors(alone, class_name, length)
            if (F.normalize(found, dim=-1) - wanted).abs().max() <= extra["anchors_atol"]:
                return found
        pytest.fail(f"no cut of the context gives the reference's anchors of {class_name!r}")


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
