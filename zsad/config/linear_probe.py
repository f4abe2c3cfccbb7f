"""Options of the linear probe on plain CLIP."""

from typing import Literal

from zsad.config.clip_zero_shot import CLIPZeroShotConfig
from zsad.config.section import Section


class LinearProbeConfig(Section):
    """CLIP's linear probe (Radford et al. 2021, arXiv 2103.00020, section 3.2) for known products.

    It starts from the zero-shot classifier and leaves every other product to it, as the fine-tuning
    of Wortsman et al. (2022, arXiv 2109.01903) does.

    Attributes:
        products: Class names that have a probe, as `predict` gets them.
        zero_shot: The classifier that it corrects.
    """

    method: Literal["linear_probe"] = "linear_probe"
    products: tuple[str, ...] = ()
    zero_shot: CLIPZeroShotConfig = CLIPZeroShotConfig()
