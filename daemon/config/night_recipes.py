"""How a night learns, by method: a recipe for each one that a night can train.

The defaults are the values of config/nights/METHOD.yaml, which says where each comes from. Refuses
to know files and how training goes.
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from daemon.config.section import Section

Steps = Annotated[int, Field(ge=1, le=1_000_000)]
Rate = Annotated[float, Field(gt=0, le=1)]
Penalty = Annotated[float, Field(gt=0)]


class StageRecipe(Section):
    """One stage of a method's training.

    Attributes:
        steps: Of the optimiser.
        learning_rate: Adam's, the same at every step.
    """

    steps: Steps = 200
    learning_rate: Rate


class LabelledRecipe(Section):
    """What every night does with labels.

    Attributes:
        synthetic: Pictures with a drawn defect for each labelled OK picture, outlined by
            construction; they keep a product able to see what nobody has labelled yet.
    """

    synthetic: Annotated[int, Field(ge=0, le=10)] = 1


class LinearProbeRecipe(LabelledRecipe):
    """For models that no gradient ever trained; fitted to its optimum, so it has no steps.

    Attributes:
        image_penalty, patch_penalty: On the squared weights of the image and of the patches; that
            of the image counts less the more pictures there are.
    """

    method: Literal["linear_probe"] = "linear_probe"
    image_penalty: Penalty = 3.0
    patch_penalty: Penalty = 0.3


class TrainedRecipe(LabelledRecipe):
    """For a model with trained weights, which all products share.

    Attributes:
        replay_views: Procedural pictures of each kind, and as many of each auxiliary set, that it
            sees again beside the labels.
        batch_size: Half labels, half replay.
    """

    replay_views: Annotated[int, Field(ge=0, le=100_000)] = 200
    batch_size: Annotated[int, Field(ge=2, le=1024)] = 8


class OneStageRecipe(TrainedRecipe, StageRecipe):
    """For a method whose training is one stage."""

    @property
    def stages(self) -> tuple[StageRecipe, ...]:
        """In the method's order."""
        return (self,)


class AAClipText(StageRecipe):
    """Of AA-CLIP's first stage, the text tower's adapters."""

    learning_rate: Rate = 3e-6


class AAClipVision(StageRecipe):
    """Of AA-CLIP's second stage, the vision tower's adapters and projectors."""

    learning_rate: Rate = 1.5e-4


class AAClipRecipe(TrainedRecipe):
    """For AA-CLIP."""

    method: Literal["aa_clip"] = "aa_clip"
    stage1: AAClipText = AAClipText()
    stage2: AAClipVision = AAClipVision()

    @property
    def stages(self) -> tuple[StageRecipe, ...]:
        """In the method's order."""
        return (self.stage1, self.stage2)


class AdaCLIPRecipe(OneStageRecipe):
    """For AdaCLIP."""

    method: Literal["ada_clip"] = "ada_clip"
    learning_rate: Rate = 3e-3


class AFRClipRecipe(OneStageRecipe):
    """For AFR-CLIP."""

    method: Literal["afr_clip"] = "afr_clip"
    learning_rate: Rate = 3e-4


class AnomalyCLIPRecipe(OneStageRecipe):
    """For AnomalyCLIP."""

    method: Literal["anomaly_clip"] = "anomaly_clip"
    learning_rate: Rate = 3e-4


class AprilGANRecipe(OneStageRecipe):
    """For APRIL-GAN."""

    method: Literal["april_gan"] = "april_gan"
    learning_rate: Rate = 3e-4


class CoCoOpRecipe(OneStageRecipe):
    """For CoCoOp."""

    method: Literal["cocoop"] = "cocoop"
    learning_rate: Rate = 3e-4


class CoOpRecipe(OneStageRecipe):
    """For CoOp."""

    method: Literal["coop"] = "coop"
    learning_rate: Rate = 3e-4


class FAPromptRecipe(OneStageRecipe):
    """For FAPrompt."""

    method: Literal["fa_prompt"] = "fa_prompt"
    learning_rate: Rate = 3e-4


class MFPClipRecipe(OneStageRecipe):
    """For MFP-CLIP."""

    method: Literal["mfp_clip"] = "mfp_clip"
    learning_rate: Rate = 3e-4


class MVFARecipe(OneStageRecipe):
    """For MVFA-AD."""

    method: Literal["mvfa_ad"] = "mvfa_ad"
    learning_rate: Rate = 3e-5


NightRecipe = Annotated[
    LinearProbeRecipe
    | AAClipRecipe
    | AdaCLIPRecipe
    | AFRClipRecipe
    | AnomalyCLIPRecipe
    | AprilGANRecipe
    | CoCoOpRecipe
    | CoOpRecipe
    | FAPromptRecipe
    | MFPClipRecipe
    | MVFARecipe,
    Field(discriminator="method"),
]
NightMethod = Literal[
    "linear_probe",
    "aa_clip",
    "ada_clip",
    "afr_clip",
    "anomaly_clip",
    "april_gan",
    "cocoop",
    "coop",
    "fa_prompt",
    "mfp_clip",
    "mvfa_ad",
]
_ANY: TypeAdapter[NightRecipe] = TypeAdapter(NightRecipe)


def default_recipe(method: NightMethod) -> NightRecipe:
    """What counts where the line names no file: the values of config/nights/METHOD.yaml."""
    return _ANY.validate_python({"method": method})
