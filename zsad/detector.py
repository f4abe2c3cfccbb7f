"""The contract between a detection method and everything that uses one.

Refuses to know which method, backbone or device is behind it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn

from zsad.augment import Augmentation
from zsad.backbone import Backbone
from zsad.compiled_blocks import CompiledBlocks
from zsad.config.method import MethodConfig
from zsad.preprocess import Resampling


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a detector says about a batch. Row i depends on image i alone.

    Attributes:
        image_score: [B] float32 in [0, 1], higher is more anomalous; needs no statistics of
            other images, so it can be used on a stream.
        anomaly_map: [B, S, S] float32 in [0, 1], higher is more anomalous, over the whole
            image at the detector's input side S.
    """

    image_score: Tensor
    anomaly_map: Tensor


@dataclass(frozen=True, slots=True)
class UnscaledOutputs:
    """What a method that scales by a whole test set says of a batch before it has seen the set.

    Attributes:
        terms: [B, K] float32, K numbers an image on any scale: all that image scores need.
        anomaly_map: [B, S, S] float32 on any scale, higher is more anomalous.
    """

    terms: Tensor
    anomaly_map: Tensor


@dataclass(frozen=True, slots=True)
class WholeSetScores:
    """Scores of all images of one category's test set, made with the set's own statistics.

    Attributes:
        image_scores: [n] float32 in [0, 1].
        map_low, map_high: Smallest and largest value of the set's unscaled maps.
    """

    image_scores: Tensor
    map_low: float
    map_high: float

    def scaled(self, anomaly_map: Tensor) -> Tensor:
        """Unscaled maps of the set [..., S, S] -> the same in [0, 1]."""
        span = max(self.map_high - self.map_low, torch.finfo(anomaly_map.dtype).tiny)
        return ((anomaly_map - self.map_low) / span).clamp(0, 1)  # rounding


class Detector(nn.Module, ABC):
    """A zero-shot anomaly detector on a frozen backbone.

    Attributes:
        input_size: Side S in pixels of the square input.
        resampling: How images are resized to that side.
        backbone: The frozen towers; every parameter outside it belongs to the method.
        config: The method's decisions.
        compiled: Its backbone's blocks for fixed batch sizes, which a batch is then filled up to;
            None where nobody had them compiled.
    """

    input_size: int
    resampling: Resampling = "bicubic"
    compiled: CompiledBlocks | None = None
    backbone: Backbone
    config: MethodConfig

    @abstractmethod
    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        """Score a batch that may mix categories; runs in inference mode.

        Args:
            images: [B, 3, S, S] float, prepared by `zsad.preprocess`.
            class_names: B nouns or phrases, one an image ("metal nut", "woven fabric").

        Raises:
            ValueError: images and class_names differ in length, or the side is not S.
        """

    @property
    def ranks_whole_sets(self) -> bool:
        """Whether the method's own evaluation ranks `whole_set_scores`, not what `predict` says."""
        return False

    @property
    def has_whole_set_scores(self) -> bool:
        """Whether `unscaled` and `whole_set_scores` are there."""
        return False

    def unscaled(self, images: Tensor, class_names: Sequence[str]) -> UnscaledOutputs | None:
        """A batch of a test set for `whole_set_scores`; None for a method without such scores.

        Arguments and errors as `predict`.
        """
        del images, class_names
        return None

    def whole_set_scores(self, terms: Tensor) -> WholeSetScores:
        """Scores that need the statistics of a whole test set; no use on a stream.

        Args:
            terms: [n, K] of `unscaled`, of ALL test images of ONE category.

        Raises:
            ValueError: the method has no such scores.
        """
        del terms
        raise ValueError(
            f"{self.config.method} has no scores that need a whole test set; use predict"
        )

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """Everything outside the frozen backbone, by name; empty for a method without training."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if not name.startswith("backbone.")
        }

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """The values of `own_parameters`: what training changes and a checkpoint holds."""
        return {name: parameter.detach() for name, parameter in self.own_parameters().items()}

    def load_trainable_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over weights of `trainable_state_dict`; all of them or none.

        Raises:
            ValueError: names or shapes differ, or a value is not finite.
        """
        wanted = self.trainable_state_dict()
        if state.keys() != wanted.keys():
            odd = sorted(state.keys() ^ wanted.keys())
            raise ValueError(f"tensors missing or unknown: {', '.join(odd[:5])}")
        for name, tensor in state.items():
            if tensor.shape != wanted[name].shape:
                found, want = list(tensor.shape), list(wanted[name].shape)
                raise ValueError(f"tensor {name} has shape {found}, the network wants {want}")
            if not torch.isfinite(tensor).all():
                raise ValueError(f"tensor {name} holds NaN or infinite values")
        with torch.no_grad():
            for name, tensor in state.items():
                wanted[name].copy_(tensor)

    def refuse_misfit(self, images: Tensor, class_names: Sequence[str]) -> None:
        """Raise ValueError unless images are [B, 3, S, S] with one class name each."""
        side = self.input_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            raise ValueError(
                f"images must be [B, 3, {side}, {side}], got {list(images.shape)}; "
                "prepare them with zsad.preprocess"
            )
        if len(images) != len(class_names):
            raise ValueError(f"{len(images)} images but {len(class_names)} class names")


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """What a method's losses may look at.

    Attributes:
        images: [B, 3, S, S] prepared.
        embedded: [B, 1 + N, Dv] what enters the first vision block (`Backbone.embed_images`);
            the trainer caches it, for it is most of a compact backbone's cost.
        masks: [B, S, S] float in {0, 1}, 1 is anomalous.
        labels: [B] int64, 1 is anomalous.
        class_names: B nouns.
        frozen: What the stage's `frozen` gives for these images. If it is there, `images` and
            `embedded` have no rows: nobody computed them.
    """

    images: Tensor
    embedded: Tensor
    masks: Tensor
    labels: Tensor
    class_names: Sequence[str]
    frozen: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class StageLosses:
    """Losses of one step.

    Attributes:
        total: Scalar; what is back-propagated.
        terms: Every weighted summand by name, for the log.
    """

    total: Tensor
    terms: dict[str, Tensor]

    @classmethod
    def of(cls, terms: dict[str, Tensor]) -> Self:
        """Losses whose total is the sum of the terms."""
        return cls(total=torch.stack(list(terms.values())).sum(), terms=terms)


@dataclass(frozen=True, slots=True)
class MethodStage:
    """One stage of a method's training with its published schedule.

    Attributes:
        name: For log and resume.
        parameters: What this stage trains; nothing else changes.
        losses: One step.
        epochs, batch_size: As published.
        learning_rate: Step or epoch, counted from 0 -> Adam's learning rate.
        betas: Adam's.
        weight_decay: Decoupled (AdamW); 0 is plain Adam.
        rate_per: What `learning_rate` is asked for: the optimiser `step` or the `epoch`.
        frozen: For a stage whose losses read nothing of an image but constants of the frozen
            backbone: `Backbone.embed_images` -> those constants, tensors [B, ...]. The trainer
            may keep them, so that later epochs cost only texts and heads.
        mosaic: Probability that a picture is replaced by a 2x2 mosaic of pictures of its class.
        augmentation: Drawn anew whenever a picture is seen.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    losses: Callable[[TrainingBatch], StageLosses]
    epochs: int
    batch_size: int
    learning_rate: Callable[[int], float]
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    rate_per: Literal["step", "epoch"] = "step"
    frozen: Callable[[Tensor], tuple[Tensor, ...]] | None = None
    mosaic: float = 0.0
    augmentation: Augmentation | None = None


class TrainableDetector(Detector):
    """A detector with parameters of its own beside the frozen backbone."""

    @abstractmethod
    def stages(self) -> Sequence[MethodStage]:
        """The stages of training, in order."""

    def training_batch(
        self, images: Tensor, masks: Tensor, labels: Tensor, class_names: Sequence[str]
    ) -> TrainingBatch:
        """What the stages' losses take, with its frozen part computed; fields as there.

        Raises:
            ValueError: images do not fit, or are not one for each class name.
        """
        self.refuse_misfit(images, class_names)
        with torch.no_grad():
            embedded = self.backbone.embed_images(images)
        return TrainingBatch(images, embedded, masks, labels, class_names)
