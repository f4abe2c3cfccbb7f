from collections.abc import Callable, Iterator

import open_clip
import pytest
import torch
from open_clip.model import CLIP

from zsad.backbone import Backbone
from zsad.config.aa_clip import AAClipConfig
from zsad.config.backbone import BackboneConfig
from zsad.methods.aa_clip import AAClip

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
TINY_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"layers": 4, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 56},
    "text_cfg": {"layers": 4, "width": 48, "heads": 4, "context_length": 77, "vocab_size": 49408},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_config() -> dict[str, object]:
    """open_clip configuration: 4 + 4 blocks, widths 64 and 48, patches of 8 px, D = 32."""
    return TINY_CONFIG


@pytest.fixture(scope="session")
def tiny_state() -> dict[str, torch.Tensor]:
    """Random weights for `tiny_config`; no bias is zero, so none can be forgotten unnoticed."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        state = CLIP(**TINY_CONFIG).state_dict()
    generator = torch.Generator().manual_seed(8)
    return {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        if "bias" in name or "ln_" in name
        else tensor
        for name, tensor in state.items()
    }


@pytest.fixture
def make_clip(tiny_state: dict[str, torch.Tensor]) -> Callable[[], CLIP]:
    def make() -> CLIP:
        clip = CLIP(**TINY_CONFIG)
        clip.load_state_dict(tiny_state)
        return clip.eval()

    return make


@pytest.fixture
def make_backbone(make_clip: Callable[[], CLIP]) -> Callable[..., Backbone]:
    def make(**options: object) -> Backbone:
        config = BackboneConfig.model_validate({"name": "tiny-random", **options})
        return Backbone(make_clip(), config, MEAN, STD, open_clip.tokenizer.SimpleTokenizer())

    return make


@pytest.fixture
def backbone(make_backbone: Callable[..., Backbone]) -> Backbone:
    return make_backbone()


@pytest.fixture
def make_detector(make_backbone: Callable[..., Backbone]) -> Callable[..., AAClip]:
    def make(**options: object) -> AAClip:
        return AAClip(make_backbone(), AAClipConfig.model_validate(options))

    return make


@pytest.fixture
def images() -> torch.Tensor:
    """[3, 3, 56, 56]."""
    return torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def masks() -> torch.Tensor:
    """[3, 56, 56]; the second image is normal."""
    masks = torch.zeros(3, 56, 56)
    masks[0, 10:30, 20:40] = 1
    masks[2, 40:50, 5:15] = 1
    return masks


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.tensor([1, 0, 1])
