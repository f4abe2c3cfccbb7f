"""Options of CoOp."""

from typing import Annotated, Literal

from pydantic import Field

from zsad.config.section import Section


class CoOpConfig(Section):
    """CoOp (Zhou et al. 2022, IJCV) for normal and anomalous objects, a trained baseline.

    Attributes:
        context_tokens: Learned tokens before both prompts, shared by all classes.
        temperature: Divides the cosines; 0.01 is what CLIP learned.
        spell_out_names: Whether underscores of a name become spaces.
    """

    method: Literal["coop"] = "coop"
    context_tokens: Annotated[int, Field(ge=1, le=64)] = 12
    temperature: Annotated[float, Field(gt=0)] = 0.01
    spell_out_names: bool = True
