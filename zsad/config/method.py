"""The options of any method, told apart by `method`."""

from typing import Annotated

from pydantic import Field

from zsad.config.aa_clip import AAClipConfig
from zsad.config.ada_clip import AdaCLIPConfig
from zsad.config.afr_clip import AFRClipConfig
from zsad.config.anomaly_clip import AnomalyCLIPConfig
from zsad.config.anovl import AnoVLConfig
from zsad.config.april_gan import AprilGANConfig
from zsad.config.clip_zero_shot import CLIPZeroShotConfig
from zsad.config.cocoop import CoCoOpConfig
from zsad.config.coop import CoOpConfig
from zsad.config.fa_prompt import FAPromptConfig
from zsad.config.linear_probe import LinearProbeConfig
from zsad.config.mfp_clip import MFPClipConfig
from zsad.config.mvfa_ad import MVFAConfig
from zsad.config.winclip import WinCLIPConfig

MethodConfig = Annotated[
    AAClipConfig
    | AdaCLIPConfig
    | AFRClipConfig
    | AnomalyCLIPConfig
    | AnoVLConfig
    | AprilGANConfig
    | CLIPZeroShotConfig
    | CoCoOpConfig
    | CoOpConfig
    | FAPromptConfig
    | LinearProbeConfig
    | MFPClipConfig
    | MVFAConfig
    | WinCLIPConfig,
    Field(discriminator="method"),
]
