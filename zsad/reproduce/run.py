"""Runs a plan's open steps, one after another; each leaves a file that says it is done.

Killed at any moment, the same call goes on: a training at its last saved state, a test from its
start. Refuses to know command lines and terminals.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from zsad.backbone_loading import load_backbone
from zsad.build import build_detector
from zsad.checkpoint import load_detector
from zsad.config.method import MethodConfig
from zsad.data import Sample, Warn, check_samples
from zsad.datasets.catalogue import named_dataset
from zsad.datasets.named import DatasetName
from zsad.detector import Detector
from zsad.evaluate import EvalReport, evaluate
from zsad.predictor import Predictor
from zsad.prompts import published_name
from zsad.reproduce.plan import Detecting, MeasureStep, Plan, TrainStep
from zsad.training_run import LabelledSet, Precision, TrainingRun, Watch, git_revision, train_method


@dataclass(frozen=True, slots=True)
class HowToRun:
    """What the steps of a plan share and their results do not depend on, but for the seed.

    Attributes:
        data_root: Parent of the data sets' folders.
        seed: Of every training and of the choice of shots; the plan must be of the same.
        batch_size: Of testing.
        precision: Of training.
        allow_other_counts: Go on with data sets of other sizes than the papers'.
        command: For the checkpoints' cards.
    """

    data_root: Path
    device: torch.device
    seed: int
    batch_size: int
    command: str
    watch: Watch = field(repr=False)
    warn: Warn = field(repr=False)
    precision: Precision = "fp32"
    allow_other_counts: bool = False


def run_plan(
    plan: Plan, how: HowToRun, *, on_step: Callable[[TrainStep | MeasureStep], None]
) -> None:
    """Make every open step.

    All data sets are read and checked before the first step.

    Args:
        on_step: Called before each open step.

    Raises:
        BackboneError, CheckpointError, CnnError: weights do not fit.
        DataError: a data set is not what the papers used, or a file is damaged.
        TrainingError: a training cannot go on.
    """
    steps = [step for step in plan.steps if not step.is_done]
    samples = _read_all(steps, how)
    for step in steps:
        on_step(step)
        if isinstance(step, TrainStep):
            _train(step, samples, how)
        else:
            _measure(step, samples[step.test_set], how)


def choose_shots(samples: list[Sample], shots: int, seed: int) -> list[Sample]:
    """At most `shots` normal and as many anomalous images of each category, drawn by the seed."""
    chosen = []
    for key in sorted({(sample.category, sample.is_anomalous) for sample in samples}):
        group = [sample for sample in samples if (sample.category, sample.is_anomalous) == key]
        order = np.random.default_rng([seed, shots]).permutation(len(group))[:shots]
        chosen += [group[index] for index in sorted(order)]
    return chosen


def with_published_names(samples: list[Sample], method: MethodConfig, dataset: str) -> list[Sample]:
    """Samples with the nouns that the method's own evaluation puts into its prompts.

    dataset: A `DatasetName`; "" for a set without one.
    """
    preset: str = getattr(method, "preset", "paper")  # methods without released code have none
    return [
        replace(
            sample,
            class_name=published_name(
                method.method,
                preset,
                dataset=dataset,
                category=sample.category,
                class_name=sample.class_name,
            ),
        )
        for sample in samples
    ]


def _read_all(
    steps: list[TrainStep | MeasureStep], how: HowToRun
) -> Mapping[DatasetName, list[Sample]]:
    """Every data set that open steps need, listed and checked."""
    samples: dict[DatasetName, list[Sample]] = {}
    for step in steps:
        names = step.detecting.sets if isinstance(step, TrainStep) else (step.test_set,)
        for name in names:
            if name not in samples:
                samples[name] = named_dataset(name).read(
                    how.data_root, warn=how.warn, allow_other_counts=how.allow_other_counts
                )
                with how.watch(f"Checking {name}") as advance:
                    check_samples(samples[name], warn=how.warn, progress=advance)
    return samples


def _train(step: TrainStep, samples: Mapping[DatasetName, list[Sample]], how: HowToRun) -> None:
    detecting, shots = step.detecting, step.detecting.recipe.shots
    sets = []
    for name in detecting.sets:
        dataset, members = named_dataset(name), samples[name]
        if shots is not None:
            members = choose_shots(members, shots, how.seed)
        members = with_published_names(members, detecting.method, name)
        sets.append(LabelledSet(name, members, dataset.licence, dataset.home))
    run = TrainingRun(
        sets=sets,
        unseen=[],
        out=step.folder,
        seed=how.seed,
        device=how.device,
        command=how.command,
        every_image=True,
        precision=how.precision,
    )
    train_method(run, detecting.method, detecting.backbone, [], watch=how.watch)


def _measure(step: MeasureStep, samples: list[Sample], how: HowToRun) -> None:
    detector, version = _detector(step, how.device)
    backbone = detector.backbone
    samples = with_published_names(samples, step.detecting.method, step.test_set)
    predictor = Predictor(detector, backbone.mean, backbone.std, how.device, version)
    with how.watch(f"Testing on {step.test_set}") as advance:
        report = evaluate(
            predictor,
            samples,
            batch_size=how.batch_size,
            warn=how.warn,
            progress=advance,
            test_set_statistics=detector.ranks_whole_sets,
        )
    _write(step.result, step, report, version)


def _detector(step: MeasureStep, device: torch.device) -> tuple[Detector, str]:
    """The trained or untrained detector with the options that its test set asks for."""
    detecting = step.detecting
    if step.trained is None:
        backbone = load_backbone(detecting.backbone)
        detector = build_detector(_for_domain(detecting, step.test_set, detecting.method), backbone)
        return detector.to(device).eval(), f"{detecting.recipe.name} as it is"
    loaded = load_detector(step.trained)
    config = _for_domain(detecting, step.test_set, loaded.card.method)
    if config == loaded.card.method:
        return loaded.detector.to(device), loaded.version
    detector = build_detector(config, loaded.detector.backbone)
    detector.load_trainable_state_dict(loaded.detector.trainable_state_dict())
    return detector.to(device).eval(), loaded.version


def _for_domain(detecting: Detecting, test_set: DatasetName, method: MethodConfig) -> MethodConfig:
    is_medical = named_dataset(test_set).domain == "medical"
    return method.model_copy(update=detecting.recipe.medical) if is_medical else method


def _write(path: Path, step: MeasureStep, report: EvalReport, version: str) -> None:
    """The result whole or not at all."""
    result = {
        "test_set": step.test_set,
        "trained_on": step.detecting.sets,
        "detector": version,
        "method": step.detecting.method.model_dump(mode="json"),
        "git_revision": git_revision(),
        **report.to_json(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(result, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
