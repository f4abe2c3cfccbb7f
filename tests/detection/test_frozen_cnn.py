from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.config.afr_clip import AFRClipConfig
from zsad.config.mfp_clip import MFPClipConfig
from zsad.frozen_cnn import CnnError, FrozenCnn, load_frozen_cnn

CNN = "test_resnet"  # timm's smallest ResNet
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return timm.create_model(CNN, pretrained=False).eval()  # type: ignore[no-any-return]


@pytest.fixture
def weights(tmp_path: Path, network: nn.Module) -> Path:
    path = tmp_path / "cnn.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    return path


def options(path: Path | str, **more: object) -> AFRClipConfig:
    return AFRClipConfig.model_validate({"sp_cnn": CNN, "sp_cnn_weights": str(path), **more})


def load(config: AFRClipConfig) -> FrozenCnn:
    cnn = load_frozen_cnn(config, MEAN, STD)
    assert cnn is not None
    return cnn


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def renormalised(network: nn.Module) -> Tensor:
    raw = images() * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (raw - mean) / std


def test_vector_is_the_pooled_last_map_of_the_renormalised_image(
    weights: Path, network: nn.Module
) -> None:
    cnn = load(options(weights))

    found = cnn(images())

    wanted = network.forward_features(renormalised(network)).mean((2, 3))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert found.shape == (2, cnn.width)


def test_other_level_and_size_are_options(weights: Path, network: nn.Module) -> None:
    level = load(options(weights, sp_cnn_level="second_last"))
    small = load(options(weights, sp_cnn_size=32))

    maps = network.forward_intermediates(
        renormalised(network), indices=[-2], intermediates_only=True
    )
    torch.testing.assert_close(level(images()), maps[0].mean((2, 3)), atol=1e-5, rtol=1e-5)
    resized = F.interpolate(renormalised(network), size=(32, 32), mode="bicubic", antialias=True)
    wanted = network.forward_features(resized).mean((2, 3))
    torch.testing.assert_close(small(images()), wanted, atol=1e-4, rtol=1e-4)


def test_it_has_no_parameters_and_never_trains(weights: Path) -> None:
    cnn = load(options(weights))

    cnn.train()

    assert list(cnn.parameters()) == []
    assert not any(module.training for module in cnn.modules())


def test_a_torch_file_gives_the_same(weights: Path, network: nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "cnn.pth")

    found = load(options(tmp_path / "cnn.pth"))

    assert torch.equal(found(images()), load(options(weights))(images()))


def test_weights_name_the_cnn_as_the_source(weights: Path) -> None:
    assert options(weights).sp_features == "cnn"
    assert AFRClipConfig().sp_features == "patch_embedding"
    assert load_frozen_cnn(AFRClipConfig(), MEAN, STD) is None
    assert load_frozen_cnn(options(weights, sp=False), MEAN, STD) is None


def test_cnn_without_weights_says_what_to_do() -> None:
    with pytest.raises(ValidationError, match=r"ImageNet weights of resnet50 .*patch_embedding"):
        AFRClipConfig(sp_features="cnn")
    assert MFPClipConfig(sp_features="cnn", sp=False, i2tp=False).wants_cnn is False


def test_bad_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(b"junk" * 10)
    torch_junk = tmp_path / "junk.pth"
    torch_junk.write_bytes(b"junk" * 10)
    tensor = tmp_path / "tensor.pth"
    torch.save(torch.zeros(1), tensor)

    with pytest.raises(CnnError, match=r"nowhere.pth of test_resnet cannot be read \(No such file"):
        load(options("/nowhere.pth"))
    for path in (junk, torch_junk):
        with pytest.raises(CnnError, match=f"{path.name} do not fit test_resnet"):
            load(options(path))
    with pytest.raises(CnnError, match="hold a Tensor, no tensors"):
        load(options(tensor))
    with pytest.raises(CnnError, match="do not fit resnet18"):
        load(options(weights, sp_cnn="resnet18"))
    with pytest.raises(CnnError, match="'resnet51', which timm does not know"):
        load(options(weights, sp_cnn="resnet51"))
    with pytest.raises(CnnError, match="the detector was trained with 000000000000"):
        load(options(weights, sp_cnn_sha256="0" * 64))
