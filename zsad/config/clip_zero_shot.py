"""Options of plain CLIP as an anomaly detector."""

from typing import Annotated, Literal

from pydantic import Field

from zsad.config.section import Section


class CLIPZeroShotConfig(Section):
    """CLIP and CLIP-AC (Radford et al. 2021, arXiv 2103.00020), the untrained baselines.

    The backbone of the published rows is ViT-L/14@336 at 518 with QuickGELU.

    Attributes:
        prompts: `clip`: one sentence a state. `clip_ac`: the states in the 80 templates that CLIP
            recommends for ImageNet.
        temperature: Divides the cosines; 0.01 is what CLIP learned, 0.07 what AnomalyCLIP uses.
        spell_out_names: Whether underscores of a name become spaces.
    """

    method: Literal["clip_zero_shot"] = "clip_zero_shot"
    prompts: Literal["clip", "clip_ac"] = "clip"
    temperature: Annotated[float, Field(gt=0)] = 0.01
    spell_out_names: bool = True
