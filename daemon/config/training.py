"""What the night may do: when, with what, and how much better it must become."""

from datetime import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from daemon.config.night_recipes import NightMethod
from daemon.config.section import LocalTime, Section


class TrainingConfig(Section):
    """Nightly training on what people labelled.

    Attributes:
        models_dir: Where trained models are kept; must be there after a reboot.
        window_start, window_end: Local wall-clock time between which training may run.
        misfire_hours: A run that was missed starts up to so many hours late, inside the window.
        auxiliary: Folders of masked images (MVTec tree) of other products, mixed into every
            training so that nothing is forgotten; procedural pictures are mixed in always.
        unseen: Folders of images (MVTec tree) of products that are never trained on: a candidate
            must not be worse on them. Without any, procedural pictures stand in.
        min_new_labels: With fewer since the last trained snapshot the night does nothing.
        margin: By how much of AUROC a candidate may be worse on any set (with 95 % confidence).
        promote: `auto`, or `manual`: the candidate waits for `zsad model promote`.
        shadow_frames: Live frames that a candidate scores, unseen by the line, before it decides.
        watch_minutes: For so long after a promotion the verdict rates must stay in their band.
        keep_versions: Models that stay on disk beside the active one and the one before it.
        threads: CPU threads of training.
        memory_bytes: Most memory that training may have.
        max_latency_ratio: Training pauses while frame-to-verdict is slower than this times before.
        recipes: Files like those of config/nights/, by method; a method that is not named is
            trained by the recipe that is there.
    """

    models_dir: Path
    window_start: LocalTime = time(1, 0)
    window_end: LocalTime = time(5, 0)
    misfire_hours: Annotated[int, Field(ge=1, le=24)] = 4
    auxiliary: tuple[Path, ...] = ()
    unseen: tuple[Path, ...] = ()
    min_new_labels: Annotated[int, Field(ge=1)] = 8
    margin: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    promote: Literal["auto", "manual"] = "auto"
    shadow_frames: Annotated[int, Field(ge=0, le=1_000_000)] = 500
    watch_minutes: Annotated[int, Field(ge=1, le=10_080)] = 60
    keep_versions: Annotated[int, Field(ge=1, le=1_000)] = 5
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    memory_bytes: Annotated[int, Field(ge=1 << 28)] = 6 << 30
    max_latency_ratio: Annotated[float, Field(ge=1.0)] = 1.5
    recipes: Annotated[dict[NightMethod, Path], Field(default_factory=dict)]
