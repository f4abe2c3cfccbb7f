"""What the tests of learned-prompt methods share."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import open_clip
import torch
from torch import Tensor

from zsad.backbone import Backbone
from zsad.checkpoint import load_detector, new_card, save_checkpoint
from zsad.config.backbone import BackboneConfig
from zsad.detector import Detector, TrainingBatch


def batch_of(
    backbone: Backbone,
    images: Tensor,
    masks: Tensor,
    labels: Tensor,
    names: Sequence[str] = ("screw", "carpet", "screw"),
) -> TrainingBatch:
    with torch.no_grad():
        embedded = backbone.embed_images(images)
    return TrainingBatch(
        images=images, embedded=embedded, masks=masks, labels=labels, class_names=names
    )


def assert_checkpoint_round_trip(
    detector: Detector, images: Tensor, names: Sequence[str], folder: Path
) -> None:
    """Saved and loaded through `zsad.checkpoint`, a changed detector predicts the same."""
    with torch.no_grad():
        for tensor in detector.trainable_state_dict().values():
            tensor.add_(0.01)
    card = new_card(
        detector,
        data=(),
        metrics={},
        seed=0,
        git_revision=None,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        training_command="none",
    )

    save_checkpoint(folder, detector, card)
    loaded = load_detector(folder, backbone=detector.backbone).detector

    assert type(loaded) is type(detector)
    assert loaded.config == detector.config
    wanted, found = (one.predict(images, names) for one in (detector, loaded))
    assert torch.equal(found.image_score, wanted.image_score)
    assert torch.equal(found.anomaly_map, wanted.anomaly_map)


def vit_l14_336() -> Backbone:
    """ViT-L/14@336 at 518 with shapes but no values."""
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    with torch.device("meta"):
        clip = open_clip.model.CLIP(**open_clip.get_model_config("ViT-L-14-336"))
        config = BackboneConfig(name="x", image_size=518)
        return Backbone(clip, config, (0, 0, 0), (1, 1, 1), tokenizer)
