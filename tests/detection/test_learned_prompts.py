import pytest
import torch
from torch import Tensor

from zsad.attention import add_mlp, attend, project_heads
from zsad.backbone import Backbone
from zsad.learned_prompts import (
    deep_token_count,
    encode_prefix,
    encode_prompts,
    encode_suffixes,
    learned_tokens,
    overwrite_deep,
    place_tokens,
    prompt_ids,
)

WORDS = ["object.", "damaged object."]


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=5e-6, rtol=1e-5)


def tokens_of(*shape: int, seed: int = 0) -> Tensor:
    return 0.5 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_published_prompts_have_the_published_ends(backbone: Backbone) -> None:
    found = {
        (n, words): prompt_ids(backbone, n, [words])[0].tolist()
        for n, words in ((5, "object."), (7, "damaged object."), (7, "object."), (12, "object."))
    }

    assert [len(ids) for ids in found.values()] == [9, 12, 11, 16]
    assert found[7, "damaged object."][8:] == [13568, 14115, 269, 49407]
    assert found[5, "object."][6:] == [14115, 269, 49407]


def test_a_prompt_longer_than_the_context_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match=r"12 learned tokens and .* do not fit into .* 77 tokens"):
        prompt_ids(backbone, 12, ["screw " * 70 + "."])


@torch.no_grad()
def test_blocks_in_parts_equal_the_block(backbone: Backbone, images: Tensor) -> None:
    tokens = backbone.embed_images(images)
    block = backbone.clip.visual.transformer.resblocks[1]

    found = add_mlp(block, tokens + attend(block, *project_heads(block, tokens)))

    close(found, block(tokens))


@torch.no_grad()
def test_placed_word_tokens_equal_the_sentence(backbone: Backbone) -> None:
    ids = backbone.tokenizer(["a photo of a screw."])
    words = backbone.embed_words(ids[:, 1:4])  # learned tokens that say what stood there

    found = encode_prompts(backbone, ids, place_tokens(backbone, ids, words))

    close(found, backbone.encode_text(["a photo of a screw."]))


@torch.no_grad()
@pytest.mark.parametrize("n_deep", [0, 2])
def test_truncated_context_equals_77_tokens(backbone: Backbone, n_deep: int) -> None:
    short = prompt_ids(backbone, 7, WORDS)
    whole = torch.nn.functional.pad(short, (0, 77 - short.shape[1]))
    learned, deep = tokens_of(2, 7, 48), overwrite_deep(tokens_of(n_deep, 4, 48, seed=1))

    found = encode_prompts(backbone, short, place_tokens(backbone, short, learned), deep)

    tokens = place_tokens(backbone, whole, learned)
    close(found, encode_prompts(backbone, whole, tokens, deep))


@torch.no_grad()
@pytest.mark.parametrize("round_fp16", [False, True])
def test_shared_prefix_equals_whole_prompts(backbone: Backbone, round_fp16: bool) -> None:
    ids = prompt_ids(backbone, 7, ["damaged object."]).expand(6, -1)
    learned = torch.cat([tokens_of(1, 5, 48).expand(6, -1, -1), tokens_of(6, 2, 48, seed=1)], dim=1)
    tokens = place_tokens(backbone, ids, learned)
    deep = overwrite_deep(tokens_of(2, 4, 48, seed=2), round_fp16=round_fp16)

    prefix = encode_prefix(backbone, tokens[:1, :6], deep)
    found = encode_suffixes(backbone, prefix, tokens[:, 6:])

    close(found, encode_prompts(backbone, ids, tokens, deep))


def test_shared_prefix_has_the_gradients_of_whole_prompts(backbone: Backbone) -> None:
    ids = prompt_ids(backbone, 7, ["object."]).expand(3, -1)
    shared, own = tokens_of(1, 5, 48).requires_grad_(), tokens_of(3, 2, 48, seed=1)
    deep = tokens_of(2, 4, 48, seed=2).requires_grad_()
    tokens = place_tokens(backbone, ids, torch.cat([shared.expand(3, -1, -1), own], dim=1))
    step = overwrite_deep(deep)

    prefix = encode_prefix(backbone, tokens[:1, :6], step)
    found = encode_suffixes(backbone, prefix, tokens[:, 6:]).square().sum()
    wanted = encode_prompts(backbone, ids, tokens, step).square().sum()

    gradients = [
        torch.autograd.grad(loss, [shared, deep], retain_graph=True) for loss in (found, wanted)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_deep_tokens_replace_the_places_after_start_of_text_between_blocks(
    backbone: Backbone,
) -> None:
    tokens, deep = tokens_of(2, 9, 48), tokens_of(2, 4, 48, seed=1)
    step = overwrite_deep(deep)

    for index in (0, 1):
        found = step(index, tokens)
        assert torch.equal(found[:, 1:5], deep[index].expand(2, -1, -1))
        assert torch.equal(found[:, [0, 5, 8]], tokens[:, [0, 5, 8]])
    assert step(2, tokens) is tokens


def test_rounded_deep_tokens_are_those_of_half_precision() -> None:
    deep, tokens = tokens_of(1, 4, 48, seed=1), tokens_of(2, 9, 48)

    found = overwrite_deep(deep, round_fp16=True)(0, tokens)

    assert found.dtype == torch.float32
    assert torch.equal(found[0, 1:5], deep[0].half().float())
    assert not torch.equal(found[0, 1:5], deep[0])


def test_twelve_text_blocks_have_eight_deep_tokens_and_four_have_two() -> None:
    assert [deep_token_count(blocks) for blocks in (12, 4, 1)] == [8, 2, 0]


def test_learned_tokens_start_as_published_and_follow_the_seed() -> None:
    one, same = (
        learned_tokens(50, 768, generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )

    assert torch.equal(one, same)
    assert one.mean().abs() < 1e-3
    assert one.std().item() == pytest.approx(0.02, rel=0.02)
