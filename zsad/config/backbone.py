"""Which frozen network is under a detector."""

from typing import Annotated, Literal

from pydantic import Field

from zsad.config.section import Section

Activation = Literal["quick_gelu", "gelu", "native"]
PositionInterpolation = Literal["bicubic_antialias", "bicubic", "bilinear"]


class BackboneConfig(Section):
    """The frozen network under a detector.

    Attributes:
        name: `compact-...` for an embedded backbone, an open_clip model name
            (`ViT-L-14-336-quickgelu`), or open_clip's `local-dir:` / `hf-hub:` form.
        pretrained: open_clip tag (`openai`) or path of a checkpoint file; None where the name
            alone says where the weights are (`compact-`, `local-dir:`, `hf-hub:`).
        image_size: Input side S in pixels, a multiple of the patch side; None keeps the size
            that the network was made for.
        activation: MLP activation of both towers; `native` is what the name says. The released
            AA-CLIP code runs OpenAI weights with exact GELU, the weights were trained with
            QuickGELU (decision AA-6: `gelu` reproduces the code, `quick_gelu` the paper).
        position_interpolation: How position embeddings are resized to image_size, once, at load.
    """

    name: Annotated[str, Field(min_length=1)]
    pretrained: str | None = None
    image_size: Annotated[int, Field(ge=16, le=2048)] | None = None
    activation: Activation = "native"
    position_interpolation: PositionInterpolation = "bicubic_antialias"
