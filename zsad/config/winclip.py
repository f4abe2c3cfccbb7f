"""Options of WinCLIP."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from zsad.config.section import Section


class WinCLIPConfig(Section):
    """Zero-shot WinCLIP (Jeong et al. 2023, CVPR); nothing is trained.

    The backbone of the published rows is `ViT-B-16-plus-240` with the LAION-400M weights
    (`laion400m_e31`) and its native GELU at 240; on another backbone the numbers are not
    comparable. There is no official code: `official` is the public re-implementations.

    Attributes:
        preset: `official` inserts class names as they are given.
        window_sizes: Sides in patches of the windows; an empty list leaves the image alone.
        temperature: Divides the cosines.
        unit_sentences: Whether sentence embeddings get unit length before they are averaged; the
            public implementations do not do it.
        spell_out_names: Whether underscores of a name become spaces.
    """

    method: Literal["winclip"] = "winclip"
    preset: Literal["paper", "official"] = "paper"
    window_sizes: tuple[Annotated[int, Field(ge=1)], ...] = (2, 3)
    temperature: Annotated[float, Field(gt=0)] = 0.07
    unit_sentences: bool = False
    spell_out_names: bool = True

    @model_validator(mode="before")
    @classmethod
    def _follow_preset(cls, values: Any) -> Any:  # raw input
        if isinstance(values, dict) and values.get("preset") == "official":
            return {"spell_out_names": False, **values}
        return values
