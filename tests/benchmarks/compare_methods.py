"""Every method on the compact backbone, before and after a short training, on unseen products.

    python tests/benchmarks/compare_methods.py --train SET [SET ...] --unseen SET [SET ...]

All methods train on the same views for the same number of steps, with their published learning
rates. The result is a Markdown table; rows appear as they are done. Not a reproduction of any
published table: the backbone has no language, and the training is short.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter

from zsad.backbone import load_backbone
from zsad.build import build_detector
from zsad.config.backbone import BackboneConfig
from zsad.config.method import MethodConfig
from zsad.corpus import RealViews
from zsad.data import Sample, limit_per_category, read_dataset
from zsad.detector import Detector, TrainableDetector
from zsad.evaluate import evaluate, percent
from zsad.predictor import Predictor
from zsad.train import run_stages
from zsad.train_method import StageSchedule, embed_views, method_stages
from zsad.view_store import build_store, source_of_view

METHODS = (
    "aa_clip",
    "afr_clip",
    "fa_prompt",
    "mfp_clip",
    "anomaly_clip",
    "april_gan",
    "ada_clip",
    "mvfa_ad",
    "coop",
    "cocoop",
    "clip_zero_shot",
    "winclip",
)
DEVICE = torch.device("cpu")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--unseen", type=Path, nargs="+", required=True)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--views", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=3, help="of the views, for each stage")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--images", type=int, default=80, help="of each unseen category")
    parser.add_argument("--work", type=Path, required=True, help="folder for views and states")
    args = parser.parse_args()

    backbone = load_backbone(BackboneConfig(name="compact-v1"))
    sources = [
        RealViews(
            read_dataset(root, "mvtec"), key=key, seed=0, side=backbone.input_size, synthetic=True
        )
        for key, root in enumerate(args.train)
    ]
    shares = [1] * len(sources)
    store = build_store(
        args.work,
        lambda index: sources[source_of_view(index, shares)](index),
        args.views,
        embed_views(backbone, DEVICE),
        identity=f"compare {[root.name for root in args.train]} {backbone.content_hash()}",
    )
    unseen = [
        sample
        for root in args.unseen
        for sample in limit_per_category(read_dataset(root, "mvtec"), args.images)
    ]
    say(
        "| method | trainable | untrained I / P / AUPRO | trained I / P / AUPRO | steps | minutes |"
    )
    say("|---|---:|---|---|---:|---:|")
    for name in args.methods:
        detector = build_detector(
            TypeAdapter(MethodConfig).validate_python({"method": name}), backbone
        )
        before, after, steps, minutes = figures(detector, unseen), "-", 0, 0.0
        if isinstance(detector, TrainableDetector):
            schedules = [StageSchedule(epochs=args.epochs, batch_size=args.batch)] * 2
            stages = method_stages(detector, store, schedules, DEVICE)
            steps = sum(stage.n_steps for stage in stages)
            start = time.monotonic()
            run_stages(stages, args.work / name, seed=0, identity=f"{name} {args}")
            minutes = (time.monotonic() - start) / 60
            detector.eval()
            after = figures(detector, unseen)
        count = sum(parameter.numel() for parameter in detector.own_parameters().values())
        say(f"| {name} | {count:,} | {before} | {after} | {steps} | {minutes:.1f} |")


def figures(detector: Detector, samples: list[Sample]) -> str:
    """I-AUROC / P-AUROC / AUPRO (exact), means over the categories."""
    backbone = detector.backbone
    predictor = Predictor(detector, backbone.mean, backbone.std, DEVICE, "in comparison")
    mean = evaluate(predictor, samples, batch_size=8, warn=say_nothing).mean()
    shown = [mean[name] for name in ("image_AUROC", "pixel_AUROC", "aupro_exact")]
    return " / ".join(percent(float(np.float64(value))) for value in shown)


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def say_nothing(_: str) -> None:
    """Warnings about vanished masks do not belong into a table."""


if __name__ == "__main__":
    main()
