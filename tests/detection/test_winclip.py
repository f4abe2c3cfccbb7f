import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.config.winclip import WinCLIPConfig
from zsad.methods.winclip import WinCLIP, harmonic_scores, window_patches
from zsad.prompts import WINCLIP_ENSEMBLE


def test_windows_of_fifteen_patches_are_those_of_the_paper() -> None:
    assert [len(window_patches(15, size)) for size in (2, 3)] == [196, 169]
    assert window_patches(15, 2)[15].tolist() == [16, 17, 31, 32]


def test_one_window_gives_every_patch_its_score() -> None:
    found = harmonic_scores(torch.tensor([[0.3]]), window_patches(3, 3), 3)

    torch.testing.assert_close(found, torch.full((1, 9), 0.3))


def test_four_windows_meet_in_the_centre_by_harmonic_mean() -> None:
    found = harmonic_scores(torch.tensor([[1.0, 0.75, 0.5, 0.25]]), window_patches(3, 2), 3)

    corners = found[0, [0, 2, 6, 8]]
    torch.testing.assert_close(corners, torch.tensor([1.0, 0.75, 0.5, 0.25]))
    assert found[0, 4].item() == pytest.approx(0.48)


def test_a_score_of_zero_does_not_divide_by_zero() -> None:
    found = harmonic_scores(torch.zeros(1, 4), window_patches(3, 2), 3)

    torch.testing.assert_close(found, torch.full((1, 9), 1e-6))


def test_one_patch_changes_exactly_the_windows_that_cover_it(
    backbone: Backbone, images: Tensor
) -> None:
    detector = WinCLIP(backbone, WinCLIPConfig())
    changed = images[:1].clone()
    changed[:, :, 16:24, 24:32] += 1  # patch (2, 3) of 7 x 7

    before, after = (detector.raw_outputs(i, ["screw"]) for i in (images[:1], changed))

    for size, old, new in zip((2, 3), before.windows, after.windows, strict=True):
        differs = (old != new).any(-1)[0]
        covered = (window_patches(7, size) == 2 * 7 + 3).any(-1)
        assert torch.equal(differs, covered)


def test_a_window_equals_the_tower_on_its_own_tokens(backbone: Backbone, images: Tensor) -> None:
    detector = WinCLIP(backbone, WinCLIPConfig(window_sizes=(2,)))

    found = detector.raw_outputs(images, ["screw"] * 3).windows[0]

    tokens = backbone.embed_images(images)[:, [0, 1 + 8, 1 + 9, 1 + 15, 1 + 16]]
    with torch.no_grad():
        alone = backbone.project_vision(backbone.run_vision(tokens, ()).class_token)
    torch.testing.assert_close(found[:, 7], alone, atol=1e-5, rtol=0)


def test_map_is_the_harmonic_mean_of_image_and_scales(backbone: Backbone, images: Tensor) -> None:
    detector = WinCLIP(backbone, WinCLIPConfig())

    raw = detector.raw_outputs(images, ["screw"] * 3)

    scales = [
        harmonic_scores(scores, window_patches(7, size), 7)
        for size, scores in zip((2, 3), raw.scores, strict=True)
    ]
    wanted = 3 / (1 / raw.image_score[:, None] + 1 / scales[0] + 1 / scales[1])
    torch.testing.assert_close(raw.grid, wanted.reshape(3, 7, 7))


def test_without_windows_the_map_is_the_image_score(backbone: Backbone, images: Tensor) -> None:
    found = WinCLIP(backbone, WinCLIPConfig(window_sizes=())).predict(images, ["screw"] * 3)

    flat = found.image_score[:, None, None].expand(-1, 56, 56)
    torch.testing.assert_close(found.anomaly_map, flat)


def test_ensemble_has_the_published_number_of_sentences_and_their_plain_mean(
    backbone: Backbone,
) -> None:
    normal, abnormal = WINCLIP_ENSEMBLE.sentences("screw")

    found = WinCLIP(backbone, WinCLIPConfig()).anchors.unit(["screw"])[0]

    assert (len(normal), len(abnormal)) == (147, 84)
    wanted = F.normalize(backbone.encode_text(normal).mean(0), dim=-1)
    torch.testing.assert_close(found[0], wanted, atol=1e-5, rtol=0)


def test_a_window_larger_than_the_grid_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="window_sizes holds 8, the patch grid has a side of 7"):
        WinCLIP(backbone, WinCLIPConfig(window_sizes=(2, 8)))
