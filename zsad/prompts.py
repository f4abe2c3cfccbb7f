"""The sentences that describe a class in its normal and its abnormal state.

Knows words only; tokenising and encoding are the backbone's.
"""

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

CLASS_PHRASES: dict[str, str] = {
    # MVTec AD, as in AA-CLIP's released code
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
    # VisA, as in AA-CLIP's released code
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
}
"""Data-set category -> the phrase that AA-CLIP puts in its place."""


def class_phrase(category: str) -> str:
    """The phrase for a data-set category: the published one, else the plain name, else `object`."""
    return CLASS_PHRASES.get(category, category.replace("_", " ").strip() or FALLBACK_NAME)


def state_sentences(class_name: str) -> tuple[list[str], list[str]]:
    """All (normal, abnormal) sentences of a class: 6 and 10; a blank name reads `object`."""
    name = class_name.strip() or FALLBACK_NAME
    normal, abnormal = (
        [template.format(state.format(name)) for template in TEMPLATES for state in states]
        for states in (NORMAL_STATES, ABNORMAL_STATES)
    )
    return normal, abnormal
