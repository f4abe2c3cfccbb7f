"""The sentences that describe a class in its normal and its abnormal state.

Knows words only; tokenising and encoding are the backbone's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import open_clip

from zsad.config.clip_zero_shot import CLIPZeroShotConfig

NORMAL_STATES = ("{}", "a {}", "the {}")
ABNORMAL_STATES = (
    "a damaged {}",
    "a broken {}",
    "a {} with flaw",
    "a {} with defect",
    "a {} with damage",
)
TEMPLATES = ("{}.", "a photo of {}.")
"""AA-CLIP's states and templates (released code); the full stop is a token."""

FALLBACK_NAME = "object"

_SCAN, _ENDOSCOPY = "scan", "colon endoscopy image"

CLASS_PHRASES: Mapping[str, Mapping[str, str]] = {
    "mvtec_ad": {
        "bottle": "dark bottle",
        "cable": "top view of three cables",
        "capsule": "black and orange capsule",
        "carpet": "gray carpet",
        "grid": "metal or plastic mesh",
        "hazelnut": "single brown hazelnut",
        "leather": "brown leather",
        "metal_nut": "metal nut which has four notched edges",
        "pill": "oval white pill with small red speckles and the letters 'FF' engraved",
        "screw": "screw",
        "tile": "speckled tile surface",
        "transistor": "a three-legged transistor placed vertically",
        "toothbrush": "toothbrush head",
        "wood": "wood surface",
        "zipper": "a black zipper",
    },
    "visa": {
        "candle": "candle",
        "pcb1": "dual ultrasonic distance sensor pcb module",
        "pcb2": "integrated circuits board",
        "pcb3": "infrared sensor pcb module",
        "pcb4": "battery charging pcb module",
        "capsules": "capsules",
        "pipe_fryum": "pipe-shaped fryum",
        "macaroni1": "orange macaroni",
        "macaroni2": "scattered yellow macaroni",
        "chewinggum": "chewing gum",
        "cashew": "cashew nut",
        "fryum": "wheel-shaped fryum snack",
    },
}
"""Data set -> category -> the phrase that AA-CLIP's released code puts in its place.

Its one-sentence descriptions of MPDD's and BTAD's categories are not here: those read plainly.
"""

SET_PHRASES: Mapping[str, str] = {
    "bmad_brain": _SCAN,
    "bmad_liver": _SCAN,
    "bmad_retina": _SCAN,
    "cvc_colondb": _ENDOSCOPY,
    "cvc_clinicdb": _ENDOSCOPY,
    "cvc_300": _ENDOSCOPY,
    "kvasir": _ENDOSCOPY,
}
"""Medical data set -> AA-CLIP's phrase for all of it."""

_UNCHANGED_NAMES = frozenset({"april_gan", "ada_clip", "winclip", "mvfa_ad", "anovl"})
"""Methods whose released code inserts a category's folder name as it is, underscores included."""


def class_phrase(dataset: str, category: str) -> str:
    """AA-CLIP's phrase for a category of a named data set, else the plain name, else `object`.

    A phrase describes one data set's product ("dark bottle"), so it never stands for a category
    of the same name elsewhere.
    """
    plain = category.replace("_", " ").strip() or FALLBACK_NAME
    return SET_PHRASES.get(dataset) or CLASS_PHRASES.get(dataset, {}).get(category, plain)


def published_name(
    method: str, preset: str, *, dataset: str, category: str, class_name: str
) -> str:
    """What a method's own evaluation puts into its prompts for a category of a data set.

    Args:
        method, preset: Of the detector's options.
        dataset: Name of the data set, as in `zsad.datasets`; "" for one without a name.
        category: Folder name.
        class_name: The plain noun, which is the answer unless the method has its own.
    """
    if method == "aa_clip" and (dataset in CLASS_PHRASES or dataset in SET_PHRASES):
        return class_phrase(dataset, category)
    if preset == "official" and method in _UNCHANGED_NAMES:
        return category
    return class_name


def state_sentences(class_name: str) -> tuple[list[str], list[str]]:
    """All (normal, abnormal) sentences of a class: 6 and 10; a blank name reads `object`."""
    name = class_name.strip() or FALLBACK_NAME
    normal, abnormal = (
        [template.format(state.format(name)) for template in TEMPLATES for state in states]
        for states in (NORMAL_STATES, ABNORMAL_STATES)
    )
    return normal, abnormal


@dataclass(frozen=True, slots=True)
class StateEnsemble:
    """Sentences of every state in every template.

    Attributes:
        normal, abnormal: States with one `{}` for the object.
        templates: Sentences with one `{}` for the state.
    """

    normal: tuple[str, ...]
    abnormal: tuple[str, ...]
    templates: tuple[str, ...]

    def sentences(self, class_name: str) -> tuple[list[str], list[str]]:
        """All (normal, abnormal) sentences of a class; a blank name reads `object`."""
        name = class_name.strip() or FALLBACK_NAME
        normal, abnormal = (
            [template.format(state.format(name)) for state in states for template in self.templates]
            for states in (self.normal, self.abnormal)
        )
        return normal, abnormal


def state_words(class_names: Sequence[str], *, spell_out: bool) -> list[str]:
    """What follows CoOp's context: `normal NAME.` and `anomalous NAME.` for every class in turn."""
    names = [spelled_out(name) if spell_out else name.strip() for name in class_names]
    named = [name or FALLBACK_NAME for name in names]
    return [f"{state} {name}." for name in named for state in ("normal", "anomalous")]


def spelled_out(class_name: str, separators: str = "_") -> str:
    """A data-set name as words: every separator becomes a space."""
    return class_name.translate(dict.fromkeys(map(ord, separators), " ")).strip()


def zero_shot_sentences(config: CLIPZeroShotConfig, class_name: str) -> tuple[list[str], list[str]]:
    """Plain CLIP's sentences of the normal and of the anomalous state."""
    if config.prompts == "clip":
        # the only ensemble whose article follows the state
        states = ("a photo of a normal {}",), ("a photo of an anomalous {}",)
        ensemble = StateEnsemble(*states, templates=("{}",))
    else:
        states = ("normal {}",), ("anomalous {}",)
        templates = tuple(make("{}") for make in open_clip.OPENAI_IMAGENET_TEMPLATES)
        ensemble = StateEnsemble(*states, templates=templates)
    name = spelled_out(class_name) if config.spell_out_names else class_name
    return ensemble.sentences(name)


_FLAWLESS = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
_ARTICLES = ("a", "the")
_FLAWED = ("{} with flaw", "{} with defect", "{} with damage")

WINCLIP_ENSEMBLE = StateEnsemble(
    normal=_FLAWLESS,
    abnormal=("damaged {}", *_FLAWED),
    templates=(
        "a cropped photo of the {}.",
        "a close-up photo of a {}.",
        "a close-up photo of the {}.",
        "a bright photo of a {}.",
        "a bright photo of the {}.",
        "a dark photo of the {}.",
        "a dark photo of a {}.",
        "a jpeg corrupted photo of the {}.",
        "a jpeg corrupted photo of the {}.",
        "a blurry photo of the {}.",
        "a blurry photo of a {}.",
        "a photo of a {}.",
        "a photo of the {}.",
        "a photo of a small {}.",
        "a photo of the small {}.",
        "a photo of a large {}.",
        "a photo of the large {}.",
        "a photo of the {} for visual inspection.",
        "a photo of a {} for visual inspection.",
        "a photo of the {} for anomaly detection.",
        "a photo of a {} for anomaly detection.",
    ),
)
"""WinCLIP's; one template appears twice in both public implementations and weighs double."""

APRIL_GAN_ENSEMBLE = StateEnsemble(
    normal=_FLAWLESS,
    abnormal=("damaged {}", "broken {}", *_FLAWED),
    templates=(
        *(
            f"a {look} photo of {article} {{}}."
            for look in (
                "bad",
                "low resolution",
                "cropped",
                "bright",
                "dark",
                "close-up",
                "black and white",
                "jpeg corrupted",
                "blurry",
                "good",
            )
            for article in ("a", "the")
        ),
        *(f"a photo of {article} {{}}." for article in ("a", "the", "my", "one")),
        *(
            f"a photo of {article} {size} {{}}."
            for size in ("large", "small", "cool")
            for article in ("a", "the")
        ),
        *(f"there is {article} {{}} in the scene." for article in ("a", "the")),
        *(f"this is {article} {{}} in the scene." for article in ("a", "the", "one")),
    ),
)
"""APRIL-GAN's; MVFA-AD uses the same."""

ADA_CLIP_ENSEMBLE = StateEnsemble(
    normal=_FLAWLESS,
    abnormal=("damaged {}", "broken {}", *_FLAWED),
    templates=(
        "a bad photo of a {}.",
        "a low resolution photo of the {}.",
        "a bad photo of the {}.",
        "a cropped photo of the {}.",
    ),
)

ANOVL_TEXTURES = frozenset({"carpet", "leather", "grid", "tile", "wood"})
ANOVL_NAMES = {"macaroni1": "macaroni", "macaroni2": "macaroni"}
"""Categories that AnoVL's released code calls by another name."""


def anovl_ensemble(*, texture: bool) -> StateEnsemble:
    """AnoVL's: 22 templates in three domains; textures have other domains than objects."""
    domains = ("an industrial photo", "a textural photo", "a surface picture")
    if not texture:
        domains = ("an industrial photo", "an industrial image", "a manufacturing image")
    looks = ("cropped", "close-up", "bright", "dark", "jpeg corrupted", "blurry")
    endings = (
        *(f"of {article}{size} {{}}" for size in ("", " small", " large") for article in _ARTICLES),
        *(
            f"of {article} {{}} for {purpose}"
            for purpose in ("visual inspection", "anomaly detection")
            for article in _ARTICLES
        ),
    )
    return StateEnsemble(
        normal=("normal {}", *_FLAWLESS[1:]),
        abnormal=("damaged {}", "abnormal {}", "imperfect {}", "blemished {}", *_FLAWED),
        templates=tuple(
            sentence
            for domain in domains
            for sentence in (
                *(
                    f"a {look} {domain.split(' ', 1)[1]} of {article} {{}}"
                    for look in looks
                    for article in _ARTICLES
                ),
                *(f"{domain} {ending}" for ending in endings),
            )
        ),
    )
