"""Where a published backbone's weights are: a file that was given, open_clip's caches, or nowhere.

Downloads nothing and opens nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import get_pretrained_cfg

from zsad.config.backbone import BackboneConfig

ANY_MODEL = ""
BYTES_CNN = 102_000_000
"""ResNet-50 in 32 bits: 25.6 M parameters."""
_HALF, _SINGLE = 2, 4
_OLD_CACHE = Path("~/.cache/clip")


@dataclass(frozen=True, slots=True)
class Weights:
    """What to give open_clip as `pretrained`, and whether that needs a download first.

    Attributes:
        pretrained: A file or a tag.
        is_here: Nothing has to be fetched, or fetching was asked for by naming the tag.
        where: They were looked for.
        how: To get them.
        bytes_a_parameter: Of their file.
    """

    pretrained: str | None
    is_here: bool
    where: str
    how: str
    bytes_a_parameter: int


def find_weights(backbone: BackboneConfig, given: Mapping[str, str]) -> Weights:
    """Look for the weights of a recipe's backbone.

    Args:
        backbone: With the published tag; none where the name says where they are.
        given: Files or tags by model name; under `ANY_MODEL` for all models. The published tag
            itself lets open_clip download them.
    """
    tag = backbone.pretrained
    if tag is None:
        return Weights(None, True, backbone.name, "", 0)
    asked = given.get(backbone.name, given.get(ANY_MODEL))
    size = _HALF if tag == "openai" else _SINGLE  # OpenAI published 16 bits
    how = f"give --pretrained {backbone.name}=FILE, or --pretrained {tag} to have them downloaded"
    if asked == tag:
        return Weights(tag, True, "open_clip's download", how, size)
    if asked is not None:
        return Weights(asked, Path(asked).expanduser().is_file(), asked, how, size)
    cached = _cached(backbone.name, tag)
    return Weights(cached or tag, cached is not None, "open_clip's cache", how, size)


def _cached(name: str, tag: str) -> str | None:
    """The tag if open_clip finds its file without the network, or a file of its older cache."""
    source = get_pretrained_cfg(name, tag)
    repository = str(source.get("hf_hub", "")).rstrip("/")
    if repository and any(
        isinstance(try_to_load_from_cache(repository, file), str)
        for file in (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
    ):
        return tag
    old = _OLD_CACHE.expanduser() / str(source.get("url", "")).rpartition("/")[2]
    return str(old) if old.is_file() else None
