import numpy as np
import pytest
import torch
from PIL import Image

from zsad.preprocess import (
    Resampling,
    as_tensor,
    normalise,
    prepare_image,
    prepare_mask,
    resize,
    resize_there,
)

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


@pytest.mark.parametrize("resampling", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("height", "width", "levels"), [(480, 640, 1), (112, 130, 1), (111, 400, 0), (40, 50, 0)]
)
def test_resizing_is_pils_within_the_stated_levels(
    resampling: Resampling, height: int, width: int, levels: int
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)

    found = prepare_image(image, 64, (0, 0, 0), (1, 1, 1), resampling=resampling)

    resized = Image.fromarray(image).resize((64, 64), Image.Resampling[resampling.upper()])
    wanted = np.asarray(resized, dtype=np.float32).transpose(2, 0, 1)
    apart = np.abs(found.numpy() * 255 - wanted).round()
    assert apart.max() <= levels
    assert (apart > 0).mean() <= 0.03


def test_image_is_scaled_and_normalised() -> None:
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    image.flags.writeable = False  # a file that was read into shared memory

    found = prepare_image(image, 28, MEAN, STD)

    wanted = (image.astype(np.float64) / 255 - MEAN) / STD
    np.testing.assert_allclose(found.numpy(), wanted.transpose(2, 0, 1), atol=1e-5)
    assert found.dtype == torch.float32


def test_views_that_are_not_contiguous_are_welcome() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)

    flipped = prepare_image(image[:, ::-1], 20, MEAN, STD)

    assert torch.equal(flipped, prepare_image(image, 20, MEAN, STD).flip(-1))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"an image must be uint8 \[H, W, 3\], got"):
        prepare_image(image, 28, MEAN, STD)


def test_mask_is_binary_whatever_its_values_and_side() -> None:
    mask = np.zeros((100, 60), np.uint8)
    mask[50:] = 7

    found = prepare_mask(mask, 20)

    assert found.shape == (20, 20)
    assert found.unique().tolist() == [0.0, 1.0]
    assert found[:10].sum() == 0
    assert found[10:].min() == 1


def test_mask_with_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a mask must be \[H, W\], got \[4, 4, 3\]"):
        prepare_mask(np.zeros((4, 4, 3), np.uint8), 20)


def test_bilinear_resampling_is_pils() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3)).astype(np.uint8)

    found = prepare_image(pixels, 30, (0, 0, 0), (1, 1, 1), resampling="bilinear")

    resized = Image.fromarray(pixels).resize((30, 30), Image.Resampling.BILINEAR)
    wanted = torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255
    torch.testing.assert_close(found, wanted)
    assert not torch.equal(found, prepare_image(pixels, 30, (0, 0, 0), (1, 1, 1)))


def test_bytes_normalised_as_a_batch_are_the_images_prepared_one_by_one() -> None:
    rng = np.random.default_rng(5)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((40, 50), (200, 90))]

    found = normalise(torch.stack([resize(image, 28) for image in images]), MEAN, STD)

    wanted = torch.stack([prepare_image(image, 28, MEAN, STD) for image in images])
    assert torch.equal(found, wanted)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("resampling", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("height", "width"), [(480, 640), (111, 400), (40, 50), (150, 130)])
def test_resizing_on_a_device_is_pils_within_the_stated_share(
    resampling: Resampling, height: int, width: int
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)

    found = resize_there(as_tensor(image[:, ::-1]), 64, resampling)

    resized = Image.fromarray(image[:, ::-1]).resize((64, 64), Image.Resampling[resampling.upper()])
    apart = np.abs(found.numpy().astype(int) - np.asarray(resized).transpose(2, 0, 1))
    assert found.dtype == torch.uint8
    assert apart.max() <= 2
    assert (apart > 0).mean() <= 0.002
