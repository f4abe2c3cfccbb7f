"""Text anchors of a frozen text tower, encoded once a class name.

Knows which sentences describe a class only through the callable that it is given.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from zsad.backbone import Backbone

StateSentences = Callable[[str], Sequence[list[str]]]
"""Class name -> its sentences state by state, normal and abnormal first."""
SENTENCES_AT_ONCE = 128


class TextAnchors:
    """Mean embeddings of a class's sentences, state by state.

    Args:
        backbone: Its text tower never changes, so an anchor is computed once.
        sentences: Class name -> sentences of its K states; normal and abnormal come first.
        unit_sentences: Whether sentence embeddings get unit length before the mean.
    """

    def __init__(
        self, backbone: Backbone, sentences: StateSentences, *, unit_sentences: bool = True
    ) -> None:
        self._backbone = backbone
        self._sentences = sentences
        self._unit_sentences = unit_sentences
        self._cache: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}
        self._rows: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    def unit(self, class_names: Sequence[str]) -> Tensor:
        """[B, K, D], unit norm, rows in the order of the states."""
        return F.normalize(self.mean(class_names), dim=-1)

    def mean(self, class_names: Sequence[str]) -> Tensor:
        """[B, K, D] before the last normalisation; detached."""
        projection = self._backbone.text_projection
        place = (projection.device, projection.dtype)
        for name in sorted(set(class_names)):
            if (name, *place) not in self._cache:
                self._cache[name, *place] = self._encode(name)
        return torch.stack([self._cache[name, *place] for name in class_names])

    def rows(self, class_name: str) -> Tensor:
        """[sentences, D] embeddings, state after state, any norm; detached."""
        projection = self._backbone.text_projection
        key = (class_name, projection.device, projection.dtype)
        if key not in self._rows:
            self._rows[key] = self._encode_rows(class_name)
        return self._rows[key]

    def _encode(self, class_name: str) -> Tensor:
        counts = [len(state) for state in self._sentences(class_name)]
        with torch.inference_mode(False), torch.no_grad():  # anchors may enter a training step
            rows = self._encode_rows(class_name)
            if self._unit_sentences:
                rows = F.normalize(rows, dim=-1)
            # two states, or more: AFR-CLIP has a stateless third
            return torch.stack([state.mean(dim=0) for state in torch.split(rows, counts)])

    def _encode_rows(self, class_name: str) -> Tensor:
        sentences = [sentence for state in self._sentences(class_name) for sentence in state]
        # kept for good, so in float32 also while training runs the backbone in 16 bits
        with self._backbone.executing(), torch.inference_mode(False), torch.no_grad():
            parts = [
                self._backbone.encode_text(sentences[start : start + SENTENCES_AT_ONCE])
                for start in range(0, len(sentences), SENTENCES_AT_ONCE)
            ]
            return torch.cat(parts)
