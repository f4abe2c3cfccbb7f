"""From good images of one product to its reference bank, in bounded memory.

Refuses to know whether the images come from a folder or from a line.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from zsad.predictor import Predictor
from zsad.reference_bank import BankError, ReferenceBank, build_bank, patch_opinions
from zsad.reference_features import predict_with_features

MAX_FEATURE_BYTES = 512 << 20
"""Of the features of all references while a bank is made; they are held in half precision."""


def learn_references(
    predictor: Predictor,
    images: Iterable[Tensor],
    class_name: str,
    *,
    seed: int = 0,
    batch_size: int = 8,
    n_frames: int | None = None,
) -> ReferenceBank:
    """Make a product's bank; the same images in the same order give the same bank.

    Args:
        predictor: Whose features and opinions the bank holds.
        images: Good images, each [3, S, S] of `Predictor.prepare`; read one batch at a time.
        class_name: The product's noun.
        seed: Of the choice of patches.
        batch_size: Images at once.
        n_frames: That the images are tiles of, see `build_bank`.

    Returns:
        The bank, on the predictor's device.

    Raises:
        BankError: too few or too many images, or the model says NaN of one.
    """
    learner = ReferenceLearner(predictor, class_name)
    for batch in _batches(images, batch_size):
        learner.add(batch)
    return learner.bank(seed=seed, n_frames=n_frames)


class ReferenceLearner:
    """Collects what a bank is made of, where images come one after the other.

    Attributes:
        n_images: Added so far.
    """

    def __init__(self, predictor: Predictor, class_name: str) -> None:
        self.n_images = 0
        self._predictor = predictor
        self._class_name = class_name
        self._features: list[Tensor] = []
        self._opinions: list[Tensor] = []
        self._scores: list[Tensor] = []

    def add(self, images: Tensor) -> None:
        """Look at good images [b, 3, S, S] of `Predictor.prepare`; costs one predict.

        Raises:
            BankError: no more fit into memory; none of these was added.
        """
        with torch.inference_mode():
            prediction, tokens = predict_with_features(
                self._predictor.detector,
                images.to(self._predictor.device),
                [self._class_name] * len(images),
            )
            tokens = tokens.half()
            limit = MAX_FEATURE_BYTES // (tokens[0].numel() * tokens.element_size())
            if self.n_images + len(images) > limit:
                raise BankError(
                    f"more than {limit} references do not fit into memory here: use fewer"
                )
            self._features.append(tokens)
            self._opinions.append(patch_opinions(prediction.anomaly_map, tokens.shape[1]))
            self._scores.append(prediction.image_score)
        self.n_images += len(images)

    def bank(self, *, seed: int = 0, n_frames: int | None = None) -> ReferenceBank:
        """The bank of all images; touches the network no more, so another thread may do it.

        Args:
            seed: Of the choice of patches.
            n_frames: That the images are tiles of, see `build_bank`.

        Raises:
            BankError: too few images, or the model says NaN of one.
        """
        if not self._features:
            raise BankError("no reference images were given")
        with torch.inference_mode():
            return build_bank(
                self._predictor.version,
                torch.cat(self._features),
                torch.cat(self._opinions),
                torch.cat(self._scores),
                torch.Generator().manual_seed(seed),
                n_frames,
            )


def _batches(images: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """[b, 3, S, S] with b <= size."""
    iterator = iter(images)
    while chunk := list(islice(iterator, size)):
        yield torch.stack(chunk)
