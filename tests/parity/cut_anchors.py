"""Text anchors as the numerical reference has them for the long prompt ensemble.

The reference cuts the context of a class's sentences where its longest abnormal sentence ends.
The few normal sentences that are longer lose their last words there, and are read at their
largest token. The released code and this package cut nothing; only these arrays need it.
"""

import functools

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
        return cut_anchors(self._settings.prefix, class_name)


@functools.cache
def cut_anchors(prefix: str, class_name: str) -> Tensor:
    """[2, D]; encoded once a session for all methods that use the ensemble."""
    settings = CaseSettings(prefix, side=98, labels=(), names=(), trainable=(), extra="{}")
    backbone = synthetic_backbone(settings, activation="gelu")
    normal, abnormal = (backbone.tokenizer(s) for s in APRIL_GAN_ENSEMBLE.sentences(class_name))
    length = int(abnormal.argmax(dim=-1).max()) + 1
    with torch.no_grad():
        states = [
            torch.cat([_encode(backbone, part) for part in ids.split(SENTENCES_AT_ONCE)])
            for ids in (normal[:, :length], abnormal[:, :length])
        ]
    return torch.stack([F.normalize(rows, dim=-1).mean(dim=0) for rows in states])


def _encode(backbone: Backbone, token_ids: Tensor) -> Tensor:
    tokens = backbone.run_text(backbone.embed_text(token_ids))
    end = token_ids.argmax(dim=-1)
    return tokens[torch.arange(len(tokens)), end] @ backbone.text_projection
