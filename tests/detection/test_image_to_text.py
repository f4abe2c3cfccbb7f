from collections.abc import Callable
from typing import Any

import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor

from zsad.backbone import Backbone
from zsad.image_to_text import ImageToText

SENTENCES = ["A photo of a normal screw", "A photo of an abnormal long woven fabric"]
FEATURES = torch.randn(2, 20, generator=torch.Generator().manual_seed(5))


def new_module(**options: Any) -> ImageToText:
    return ImageToText(20, 48, 77, torch.Generator().manual_seed(6), **options)


def randomise(module: ImageToText) -> None:
    with torch.no_grad():
        for parameter in module.token_projection.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))


@pytest.mark.parametrize("axis", ["channel", "token_axis"])
@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_identity_start_equals_plain_clip(
    backbone: Backbone, make_clip: Callable[[], CLIP], axis: str, projection: str
) -> None:
    module = new_module(axis=axis, projection=projection)

    found = module(backbone, SENTENCES, FEATURES)

    wanted = make_clip().encode_text(backbone.tokenizer(SENTENCES))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def written_out(backbone: Backbone, module: ImageToText, sentence: str, feature: Tensor) -> Tensor:
    """Eqs. 2a-2c for one sentence with all 77 tokens."""
    ids = backbone.tokenizer([sentence])
    words = backbone.embed_words(ids)[0]  # [77, 48]
    image = module.image_projection(feature)
    end = int(backbone.end_of_text(ids))
    if module.axis == "channel":
        tokens = module.token_projection(torch.cat([words, image.expand(77, -1)], dim=1))
    elif module.axis == "extra_token":
        joined = torch.cat([words[:end], image[None], words[end:]])[:77]
        tokens, end = module.token_projection(joined), end + 1
    else:
        joined = torch.cat([words, image[None]])
        weight, bias = module.token_projection.weight, module.token_projection.bias
        tokens = weight @ joined + bias[:, None]
    out = backbone.run_text((tokens + backbone.text_positions)[None])
    return out[0, end] @ backbone.text_projection


@pytest.mark.parametrize("axis", ["channel", "extra_token", "token_axis"])
def test_batched_truncated_and_split_form_equals_the_equations(
    backbone: Backbone, axis: str
) -> None:
    module = new_module(axis=axis)
    randomise(module)

    found = module(backbone, SENTENCES, FEATURES)

    for row, sentence in enumerate(SENTENCES):
        wanted = written_out(backbone, module, sentence, FEATURES[row])
        torch.testing.assert_close(found[row], wanted, atol=1e-4, rtol=1e-4)


def test_a_sentence_without_room_for_the_image_token_is_refused(backbone: Backbone) -> None:
    module = new_module(axis="extra_token")

    with pytest.raises(ValueError, match="need 78 text tokens, the text tower has 77"):
        module(backbone, ["screw " * 90], FEATURES[:1])
