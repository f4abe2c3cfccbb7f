"""Makes the backbone that a configuration names: open_clip's, or the compact one.

The one place that knows where a network and its weights come from. Random weights are never used:
what is missing or does not fit is one sentence that says what to change.
"""

from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251  # only to recognise a file that is none of ours

import open_clip
from safetensors import SafetensorError

from zsad.backbone import Backbone, BackboneError
from zsad.config.backbone import BackboneConfig
from zsad.folding import fold_batch_norms, fold_padding

COMPACT_PREFIX = "compact-"


def load_backbone(config: BackboneConfig) -> Backbone:
    """Make the backbone that a configuration names, frozen, on the CPU in float32.

    Raises:
        BackboneError: unknown name, missing or damaged weights, or an image_size that does not
            fit the patches.
    """
    if config.name.startswith(COMPACT_PREFIX):
        return _load_compact(config)
    if config.pretrained is None and not config.name.startswith(("local-dir:", "hf-hub:")):
        raise BackboneError(
            f"{config.name}: pretrained is empty; give an open_clip tag (openai) or the path of a "
            "checkpoint file, otherwise the network would have random weights"
        )
    _refuse_missing_file(config)
    try:
        clip = open_clip.create_model(
            config.name, pretrained=config.pretrained, require_pretrained=True
        )
        tokenizer = open_clip.get_tokenizer(config.name)
    except (
        RuntimeError,
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        SafetensorError,
        UnpicklingError,
        AssertionError,
    ) as error:  # what open_clip raises for unknown names and for weights that do not fit
        reason = str(error).strip().split("\n")[0][:300]
        raise BackboneError(
            f"cannot make backbone {config.name} with pretrained={config.pretrained}: {reason}"
        ) from error
    return Backbone(clip, config, clip.visual.image_mean, clip.visual.image_std, tokenizer)


def _refuse_missing_file(config: BackboneConfig) -> None:
    path = config.pretrained or ""
    looks_like_path = "/" in path or path.endswith((".safetensors", ".pt", ".pth", ".bin"))
    if looks_like_path and not Path(path).is_file():
        raise BackboneError(f"{config.name}: there is no weights file {path}")


def _load_compact(config: BackboneConfig) -> Backbone:
    from zsad import compact, compact_stem  # their CNN library loads only if it is needed

    if config.pretrained is not None:
        raise BackboneError(
            f"{config.name} carries its own weights; remove pretrained={config.pretrained}"
        )
    try:
        clip, _, _ = compact.build_compact_clip(config.name)
    except (compact.CompactError, compact_stem.StemWeightsError) as error:
        raise BackboneError(str(error)) from error
    return compact_backbone(clip, config)


def compact_backbone(clip: open_clip.CLIP, config: BackboneConfig) -> Backbone:
    """The backbone around a compact network, also one that was fitted just now."""
    from zsad.compact_stem import IMAGE_MEAN, IMAGE_STD

    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=clip.context_length)
    backbone = Backbone(clip, config, IMAGE_MEAN, IMAGE_STD, tokenizer)
    backbone.content_hash()  # kept from now on: of the weights as they came, not as they run
    fold_batch_norms(clip.visual.conv1.cnn)
    fold_padding(clip.visual.conv1.cnn)
    return backbone
