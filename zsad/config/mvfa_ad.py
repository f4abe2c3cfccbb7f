"""Options of MVFA-AD."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from zsad.config.section import Section


class MVFAConfig(Section):
    """MVFA-AD, zero-shot (Huang et al. 2024, arXiv 2403.12570): adapters for medical images.

    Activation and position interpolation are the backbone's: `quick_gelu` is the text, exact
    `gelu` the released code; both resize positions with `bicubic_antialias`, input side 240.

    Attributes:
        preset: What options that are not given follow; `official` inserts class names as given.
        adapter_weight: Share of each of the two adapters in the stream; published 0.1.
        spell_out_names: Whether underscores of a name become spaces.
    """

    method: Literal["mvfa_ad"] = "mvfa_ad"
    preset: Literal["paper", "official"] = "paper"
    adapter_weight: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    spell_out_names: bool = True

    @model_validator(mode="before")
    @classmethod
    def _follow_preset(cls, values: Any) -> Any:  # raw input
        if isinstance(values, dict) and values.get("preset") == "official":
            return {"spell_out_names": False, **values}
        return values
