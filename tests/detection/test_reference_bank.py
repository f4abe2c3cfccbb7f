"""Reference banks on a real detector with small random towers."""

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from zsad import reference_bank, reference_learning
from zsad.backbone import Backbone
from zsad.detector import Detector, Prediction
from zsad.methods.aa_clip import AAClip
from zsad.predictor import Predictor
from zsad.reference_bank import BankError, ReferenceBank, build_bank, nearest_distances
from zsad.reference_file import load_bank, save_bank
from zsad.reference_learning import learn_references
from zsad.reference_statistics import trust

Image = NDArray[np.uint8]
NAME = "woven fabric"


@pytest.fixture
def predictor(make_detector: Callable[..., AAClip]) -> Predictor:
    detector = make_detector()
    backbone = detector.backbone
    return Predictor(detector, backbone.mean, backbone.std, torch.device("cpu"), "model-1")


def part(seed: int, *, has_defect: bool = False) -> Image:
    """A noisy grey part; the defect is a bright square."""
    image = np.random.default_rng(seed).integers(90, 130, (60, 60, 3)).astype(np.uint8)
    if has_defect:
        image[20:36, 20:36] = 250
    return image


def learn(predictor: Predictor, count: int = 6, *, seed: int = 0) -> ReferenceBank:
    images = (predictor.prepare(part(number)) for number in range(count))
    return learn_references(predictor, images, NAME, seed=seed, batch_size=4)


def test_a_defect_scores_above_every_good_part(predictor: Predictor) -> None:
    bank = learn(predictor)

    good, _ = predictor.predict([part(n) for n in range(50, 58)], [NAME] * 8, [bank] * 8)
    bad, _ = predictor.predict([part(n, has_defect=True) for n in range(8)], [NAME] * 8, [bank] * 8)

    assert max(good) < min(bad)


def test_the_map_is_highest_at_the_defect(predictor: Predictor) -> None:
    bank = learn(predictor)

    _, maps = predictor.predict([part(70, has_defect=True)], [NAME], [bank])

    y, x = np.unravel_index(maps[0].argmax(), maps[0].shape)
    assert 15 <= y <= 38
    assert 15 <= x <= 38


def test_a_texture_that_is_wrong_all_over_scores_above_a_usual_good_part(
    predictor: Predictor,
) -> None:
    """Its patches are all alike and none is odd among the image's own."""
    bank = learn(predictor, 16)
    smooth = [cv2.blur(part(n), (5, 5)) for n in range(8)]

    good, _ = predictor.predict([part(n) for n in range(50, 58)], [NAME] * 8, [bank] * 8)
    bad, _ = predictor.predict(smooth, [NAME] * 8, [bank] * 8)

    assert np.median(good) < min(bad)


def test_an_image_whose_patches_are_all_good_but_wrongly_mixed_scores_higher() -> None:
    """Every patch is in the bank: only the whole image tells."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(2, 6, generator=generator).repeat_interleave(8, dim=0)  # half of each
    images = kinds + 0.05 * torch.randn(20, 16, 6, generator=generator)
    maps = torch.rand(20, 4, 4, generator=generator)
    opinions = reference_bank.patch_opinions(maps, 16)
    bank = build_bank("m", images[:16], opinions[:16], torch.full((16,), 0.5), generator)
    mixed = torch.cat([images[16:, :8], images[16:, :8].flip(0)], dim=1)  # one kind alone

    good, bad = (
        bank.fuse(found, Prediction(torch.full((4,), 0.5), maps[16:])).image_score
        for found in (images[16:], mixed)
    )

    assert good.max() < bad.min()


@pytest.mark.parametrize(("unlike", "decides"), [(3.0, "detector"), (0.0, "bank")])
def test_where_good_parts_are_unlike_each_other_the_detector_decides(
    unlike: float, decides: str
) -> None:
    """Every board another layout: what the bank finds odd is only the next good one."""
    generator = torch.Generator().manual_seed(0)
    layouts = unlike * torch.randn(24, 1, 6, generator=generator)
    images = layouts + torch.randn(24, 64, 6, generator=generator)
    images[20:, 5] += 9  # odd to the bank, and the less so to the detector
    maps = torch.rand(24, 8, 8, generator=generator)
    scores = torch.linspace(0.6, 0.4, 24)
    opinions = reference_bank.patch_opinions(maps, 64)
    bank = build_bank("m", images[:12], opinions[:12], scores[:12], generator)

    found = bank.fuse(images[12:], Prediction(scores[12:], maps[12:])).image_score

    follows_detector = found.argsort(descending=True).equal(torch.arange(12))
    follows_bank = bool(found[8:].min() > found[:8].max())
    assert (follows_detector, follows_bank) == (decides == "detector", decides == "bank")


@given(st.integers(2, 20), st.floats(0, 100))
def test_trust_falls_as_good_parts_grow_unlike(count: int, unlike: float) -> None:
    means = torch.linspace(-1, 1, count)[:, None].expand(count, 3)
    looks = [torch.cat([f * means, torch.ones(count, 3)], dim=1) for f in (0, unlike, 2 * unlike)]

    alike, less, least = (trust(values, count) for values in looks)

    assert 1 == alike >= less >= least >= 0


def test_tiles_of_a_frame_may_be_unlike_each_other() -> None:
    """Their mixture is what all good frames have in common."""
    generator = torch.Generator().manual_seed(0)
    tiles = 3 * torch.randn(4, 1, 6, generator=generator)
    views = (tiles + torch.randn(8, 4, 64, 6, generator=generator)).flatten(0, 1)

    told, untold = (
        build_bank("m", views, torch.randn(32, 64), torch.rand(32), generator, n_frames).trust
        for n_frames in (8, None)
    )

    assert told > 0.9
    assert untold < 0.1


def test_a_reference_itself_scores_below_another_good_part(predictor: Predictor) -> None:
    bank = learn(predictor)

    scores, _ = predictor.predict([part(0), part(60)], [NAME] * 2, [bank] * 2)

    assert scores[0] < scores[1]


def test_an_image_does_not_depend_on_its_batch_mates_and_their_banks(predictor: Predictor) -> None:
    bank, other = learn(predictor), learn(predictor, 3)
    image = part(80, has_defect=True)

    alone, alone_map = predictor.predict([image], [NAME], [bank])
    mixed, mixed_maps = predictor.predict(
        [part(1), image, part(2)], ["metal nut", NAME, NAME], [None, bank, other]
    )

    assert mixed[1] == pytest.approx(alone[0], abs=1e-4)
    np.testing.assert_allclose(mixed_maps[1], alone_map[0], atol=1e-3)


def test_an_image_without_a_bank_is_judged_as_ever(predictor: Predictor) -> None:
    bank = learn(predictor)
    images = [part(1), part(2, has_defect=True)]

    plain, plain_maps = predictor.predict(images, [NAME] * 2)
    beside, beside_maps = predictor.predict(images, [NAME] * 2, [bank, None])

    assert beside[1] == plain[1]
    np.testing.assert_array_equal(beside_maps[1], plain_maps[1])
    assert beside[0] != plain[0]


def test_the_same_images_and_seed_give_the_same_bank(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_bank, "MAX_PATCHES", 40)

    first, second, third = learn(predictor), learn(predictor), learn(predictor, seed=1)

    assert first.patches.equal(second.patches)
    assert not first.patches.equal(third.patches)


def test_a_bank_stays_within_its_bound(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_bank, "MAX_PATCHES", 40)
    monkeypatch.setattr(reference_bank, "MAX_DIMENSIONS", 16)

    assert learn(predictor, 12).patches.shape == (40, 16)


def test_more_references_than_memory_are_refused(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_bytes = 49 * 3 * 64 * 2
    monkeypatch.setattr(reference_learning, "MAX_FEATURE_BYTES", 5 * image_bytes)

    assert learn(predictor, 5).n_references == 5
    with pytest.raises(BankError, match="more than 5 references do not fit"):
        learn(predictor, 6)


@pytest.mark.parametrize(("count", "sentence"), [(0, "no reference images"), (1, "at least 2")])
def test_too_few_references_are_refused(predictor: Predictor, count: int, sentence: str) -> None:
    with pytest.raises(BankError, match=sentence):
        learn(predictor, count)


def test_a_model_that_says_nan_gives_no_bank() -> None:
    features = torch.full((3, 49, 8), torch.nan)

    with pytest.raises(BankError, match="NaN"):
        build_bank("m", features, torch.zeros(3, 49), torch.zeros(3), torch.Generator())


def test_references_that_are_all_alike_give_finite_scores(predictor: Predictor) -> None:
    images = [predictor.prepare(part(0))] * 4

    bank = learn_references(predictor, images, NAME)
    scores, maps = predictor.predict([part(0), part(5)], [NAME] * 2, [bank] * 2)

    assert np.isfinite(scores).all()
    assert np.isfinite(maps).all()
    assert scores[0] < scores[1]


def test_a_bank_of_another_model_is_refused(predictor: Predictor) -> None:
    bank = learn(predictor)
    newer = Predictor(
        predictor.detector, predictor.mean, predictor.std, predictor.device, "model-2"
    )

    with pytest.raises(ValueError, match="bank of model model-1 given to model-2"):
        newer.predict([part(0)], [NAME], [bank])


def test_banks_must_be_one_an_image(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="1 images but 2 reference banks"):
        predictor.predict([part(0)], [NAME], [learn(predictor)] * 2)


@given(st.integers(0, 1000), st.sampled_from([1e-30, 1e-3, 1.0, 1e4]))
@settings(deadline=None, max_examples=30)
def test_scores_stay_in_the_unit_interval(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    references = torch.randn(4, 9, 6, generator=generator)
    bank = build_bank(
        "m", references, torch.randn(4, 9, generator=generator), torch.rand(4), generator
    )

    found = bank.fuse(
        scale * torch.randn(5, 9, 6, generator=generator),
        Prediction(torch.rand(5).round(), torch.rand(5, 12, 12).round()),
    )

    for values in (found.image_score, found.anomaly_map):
        assert torch.isfinite(values).all()
        assert values.min() >= 0
        assert values.max() <= 1


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_the_level_of_the_detectors_scores_does_not_matter(seed: int) -> None:
    """Another detector that is as good, but less sure of itself, gives the same fused result."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(9, 16, 6, generator=generator)
    maps = torch.randn(9, 16, 16, generator=generator)
    scores = torch.randn(9, generator=generator)

    def fused(slope: float, offset: float) -> Prediction:
        said = Prediction((slope * scores + offset).sigmoid(), (slope * maps + offset).sigmoid())
        opinions = reference_bank.patch_opinions(said.anomaly_map, 16)
        chosen = torch.Generator().manual_seed(0)
        bank = build_bank("m", features[:6], opinions[:6], said.image_score[:6], chosen)
        return bank.fuse(features[6:], Prediction(said.image_score[6:], said.anomaly_map[6:]))

    plain, unsure = fused(1.0, 0.0), fused(0.5, -2.0)

    torch.testing.assert_close(plain.anomaly_map, unsure.anomaly_map, atol=2e-3, rtol=0)
    order = plain.image_score.argsort()
    assert order.equal(unsure.image_score.argsort())


def test_distances_are_those_of_a_plain_search() -> None:
    points, patches = torch.randn(2, 7, 5), torch.randn(11, 5)

    found = nearest_distances(points, patches)

    expected = torch.cdist(points.reshape(-1, 5), patches).amin(dim=1).reshape(2, 7)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


# --- on disk


def test_a_bank_comes_back_from_disk_as_it_was(predictor: Predictor, tmp_path: Path) -> None:
    bank = learn(predictor)
    path = tmp_path / "banks" / "fabric.safetensors"

    save_bank(path, bank)
    again = load_bank(path, version="model-1")

    image = [part(90, has_defect=True)]
    before, after = (predictor.predict(image, [NAME], [b]) for b in (bank, again))
    assert before[0] == after[0]
    np.testing.assert_array_equal(before[1], after[1])
    assert again.n_references == 6
    assert [p.name for p in path.parent.iterdir()] == ["fabric.safetensors"]


def test_a_bank_file_of_another_model_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    save_bank(tmp_path / "bank", learn(predictor))

    with pytest.raises(BankError, match="made by model model-1, the model here is model-2"):
        load_bank(tmp_path / "bank", version="model-2")


@pytest.mark.parametrize("part_of_file", ["tensors", "metadata"])
def test_a_changed_bank_file_is_refused(
    predictor: Predictor, tmp_path: Path, part_of_file: str
) -> None:
    path = tmp_path / "bank"
    save_bank(path, learn(predictor))
    content = bytearray(path.read_bytes())
    if part_of_file == "tensors":
        content[-3] ^= 1
    else:
        content = bytearray(re.sub(rb'"n_references":"6"', b'"n_references":"9"', bytes(content)))
    path.write_bytes(content)

    with pytest.raises(BankError, match="does not fit its SHA-256"):
        load_bank(path, version="model-1")


def test_files_that_are_no_banks_are_refused(tmp_path: Path) -> None:
    text, foreign = tmp_path / "text", tmp_path / "foreign"
    text.write_bytes(b"not a bank" * 10)
    foreign.write_bytes(safetensors.torch.save({"weights": torch.zeros(3)}))

    for path, sentence in (
        (text, "not a safetensors file"),
        (foreign, "learn the references again"),
        (tmp_path / "absent", "cannot be read"),
    ):
        with pytest.raises(BankError, match=sentence):
            load_bank(path, version="model-1")


# --- cost


def test_a_bank_does_not_embed_the_images_again(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = learn(predictor)
    embedded = []
    embed = Backbone.embed_patches

    def counting(backbone: Backbone, images: Tensor) -> Tensor:
        embedded.append(len(images))
        return embed(backbone, images)

    monkeypatch.setattr(Backbone, "embed_patches", counting)
    predictor.predict([part(1), part(2)], [NAME] * 2, [bank, None])

    assert embedded == [2]


def test_nothing_is_kept_of_an_embedding(predictor: Predictor) -> None:
    detector: Detector = predictor.detector
    images = predictor.prepare(part(0))[None]
    with detector.backbone.embedding_once():
        first = detector.backbone.embed_images(images)
        assert detector.backbone.embed_images(images) is first
        assert detector.backbone.embed_images(images.clone()) is not first

    assert detector.backbone.embed_images(images) is not first
