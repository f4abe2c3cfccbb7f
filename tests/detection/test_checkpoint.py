import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from zsad.backbone import Backbone
from zsad.backbone_loading import load_backbone
from zsad.checkpoint import (
    CARD_NAME,
    WEIGHTS_NAME,
    CheckpointCard,
    CheckpointError,
    DataSource,
    load_detector,
    new_card,
    read_card,
    save_checkpoint,
)
from zsad.config.aa_clip import AAClipConfig
from zsad.config.backbone import BackboneConfig
from zsad.methods.aa_clip import AAClip

NAMES = ["metal nut", "woven fabric", "metal nut"]


@pytest.fixture
def detector(
    tmp_path: Path, tiny_config: dict[str, object], tiny_state: dict[str, Tensor]
) -> AAClip:
    """On a backbone that a card can name: an open_clip folder."""
    folder = tmp_path / "backbone"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": tiny_config}))
    safetensors.torch.save_file(tiny_state, folder / "open_clip_model.safetensors")
    backbone = load_backbone(BackboneConfig(name=f"local-dir:{folder}"))
    return AAClip(backbone, AAClipConfig(), seed=5)


def card_of(detector: AAClip) -> CheckpointCard:
    return new_card(
        detector,
        data=(DataSource(name="wood", licence="CC-BY-4.0", source="example.org", images=12),),
        metrics={"textile/image_AUROC": 0.8},
        seed=5,
        git_revision=None,
        created=datetime(2026, 1, 31, tzinfo=UTC),
        training_command="zsad train",
    )


@pytest.fixture
def saved(tmp_path: Path, detector: AAClip) -> Path:
    save_checkpoint(tmp_path / "v1", detector, card_of(detector))
    return tmp_path / "v1"


def test_a_saved_detector_comes_back_the_same(
    saved: Path, detector: AAClip, images: Tensor
) -> None:
    loaded = load_detector(saved)

    before, after = detector.predict(images, NAMES), loaded.detector.predict(images, NAMES)
    assert torch.equal(before.image_score, after.image_score)
    assert torch.equal(before.anomaly_map, after.anomaly_map)
    assert loaded.card.data[0].licence == "CC-BY-4.0"
    assert not loaded.detector.training


def test_version_is_stable_and_follows_the_weights(tmp_path: Path, detector: AAClip) -> None:
    card = card_of(detector)

    first = save_checkpoint(tmp_path / "a", detector, card)
    again = save_checkpoint(tmp_path / "b", detector, card)
    with torch.no_grad():
        detector.det_projector.weight[0, 0] += 1
    changed = save_checkpoint(tmp_path / "c", detector, card)

    assert first == again == load_detector(tmp_path / "a").version
    assert first.startswith("aa_clip-")
    assert len(first) == len("aa_clip-") + 12
    assert changed != first


def test_saving_leaves_two_files_and_no_backbone_in_them(saved: Path, detector: AAClip) -> None:
    names = safetensors.torch.load_file(saved / WEIGHTS_NAME).keys()

    assert sorted(path.name for path in saved.iterdir()) == [CARD_NAME, WEIGHTS_NAME]
    assert names == detector.trainable_state_dict().keys()
    assert not any("backbone" in name for name in names)


def test_a_given_backbone_is_shared(saved: Path, detector: AAClip) -> None:
    loaded = load_detector(saved, backbone=detector.backbone)

    assert loaded.detector.backbone is detector.backbone


def rewrite_card(saved: Path, **changes: object) -> None:
    card = json.loads((saved / CARD_NAME).read_text())
    (saved / CARD_NAME).write_text(json.dumps({**card, **changes}))


def rewrite_weights(saved: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Consistent SHA-256, so that the later guards are reached."""
    state = safetensors.torch.load_file(saved / WEIGHTS_NAME)
    change(state)
    content = safetensors.torch.save(state)
    (saved / WEIGHTS_NAME).write_bytes(content)
    rewrite_card(saved, weights_sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("name", [WEIGHTS_NAME, CARD_NAME])
def test_a_missing_file_is_refused(saved: Path, name: str) -> None:
    (saved / name).unlink()

    with pytest.raises(CheckpointError, match=f"{name}: cannot be read: No such file"):
        load_detector(saved)


def test_flipped_bit_in_the_weights_is_refused(saved: Path) -> None:
    content = bytearray((saved / WEIGHTS_NAME).read_bytes())
    content[-5] ^= 1
    (saved / WEIGHTS_NAME).write_bytes(content)

    with pytest.raises(CheckpointError, match=r"weights.safetensors: SHA-256 is .* card wants"):
        load_detector(saved)


def test_bytes_that_are_no_safetensors_are_refused(saved: Path) -> None:
    (saved / WEIGHTS_NAME).write_bytes(b"junk" * 100)
    rewrite_card(saved, weights_sha256=hashlib.sha256(b"junk" * 100).hexdigest())

    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_detector(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("det_projector.weight"), "missing or unknown: det_projector.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "missing or unknown: extra"),
        (
            lambda s: s.update({"det_projector.weight": torch.zeros(2, 2)}),
            r"det_projector.weight has shape \[2, 2\], the network wants \[32, 64\]",
        ),
        (lambda s: s["det_projector.weight"].fill_(torch.nan), "holds NaN or infinite values"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    saved: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    rewrite_weights(saved, change)

    with pytest.raises(CheckpointError, match=message):
        load_detector(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": {"method": "no_such_method"}}, "'no_such_method'.*'aa_clip'"),
        ({"backbone_sha256": "0" * 64}, "trained on backbone 000000000000, but"),
        ({"activation": "quick_gelu"}, "trained with activation quick_gelu, .* uses gelu"),
        ({"backbone": {"name": "local-dir:/nowhere"}}, "not found"),
        ({"surprise": 1}, "surprise is 1: Extra inputs are not permitted"),
        ({"format": 2}, "format is 2"),
    ],
)
def test_cards_that_do_not_fit_are_refused(
    saved: Path, changes: dict[str, object], message: str
) -> None:
    rewrite_card(saved, **changes)

    with pytest.raises(CheckpointError, match=message):
        load_detector(saved)


@pytest.mark.parametrize("content", [b"", b"[" * 4096, b"\xff\xfe", b"{}", b"null"])
def test_a_card_that_is_no_card_is_refused(saved: Path, content: bytes) -> None:
    (saved / CARD_NAME).write_bytes(content)

    with pytest.raises(CheckpointError, match=CARD_NAME):
        read_card(saved)


def test_an_oversized_card_is_refused(saved: Path) -> None:
    (saved / CARD_NAME).write_bytes(b" " * ((1 << 20) + 1))

    with pytest.raises(CheckpointError, match="1048577 bytes, limit 1048576"):
        read_card(saved)


def test_a_backbone_of_another_configuration_is_refused(
    saved: Path, make_backbone: Callable[..., Backbone]
) -> None:
    with pytest.raises(CheckpointError, match="the given backbone is"):
        load_detector(saved, backbone=make_backbone(image_size=80))


def test_nan_weights_are_not_saved(tmp_path: Path, detector: AAClip) -> None:
    with torch.no_grad():
        detector.det_projector.weight[0, 0] = torch.nan

    with pytest.raises(CheckpointError, match=r"det_projector\.weight holds NaN"):
        save_checkpoint(tmp_path / "bad", detector, card_of(detector))

    assert not (tmp_path / "bad").exists()
