"""What one night gains: labels of a weak product in, AUROC on fresh frames before and after.

    python tests/benchmarks/nightly_gain.py --product TREE/CATEGORY --unseen TREE ... --seeds 0 1 2

TREE is an MVTec tree. Each seed draws 16 + 16 frames to label (masks on half of the NG ones where
the tree has any), 30 good ones to calibrate with and up to 75 + 75 fresh ones, runs one night on a
line of its own, and measures the fresh frames and the unseen trees, other products, with the models
before and after it, which are the same where the gate refused. P-AUROC is NaN without masks. With
`--checkpoint`, of `zsad train`, that model learns in place of the embedded one, and sees the trees
of `--auxiliary` again. `--shuffled` gives the labels to the wrong frames: the gate must keep the
candidate out.
"""

import argparse
import json
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "nights"))

from night_line import NightLine, Shown

from daemon.model import open_model
from daemon.storage.job_runs import JobState
from daemon.training.job import run_job
from daemon.training.model_store import ModelStore
from daemon.training.night_end import Outcome
from zsad.data import Sample, limit_per_category
from zsad.datasets.layouts import read_dataset
from zsad.evaluate import evaluate
from zsad.predictor import Predictor

LABELS, GOOD, FRESH = 16, 30, 75


def main() -> None:
    """Print one line a seed, and the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--product", type=Path, required=True)
    parser.add_argument("--unseen", type=Path, nargs="*", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument("--labels", type=int, default=LABELS)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--auxiliary", type=Path, nargs="*", default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = [_one_seed(args, seed) for seed in args.seeds]
    for name in results[0]:
        values = np.array([found.get(name, np.nan) for found in results])
        print(f"mean {name}: {100 * values.mean():.1f} ({np.round(100 * values, 1).tolist()})")


def _one_seed(args: argparse.Namespace, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    sound, defective = samples_of(args.product, rng)
    n = args.labels
    shown = [Shown(s.image_path, False) for s in sound[:n]]
    shown += [
        Shown(s.image_path, True, s.mask_path if i % 2 else None)
        for i, s in enumerate(defective[:n])
    ]
    if args.shuffled:
        truth = rng.permutation([one.is_ng for one in shown])
        shown = [Shown(one.image, bool(ng)) for one, ng in zip(shown, truth, strict=True)]
    noun = sound[0].class_name
    with TemporaryDirectory() as folder:
        line = NightLine(
            Path(folder),
            {"product": noun},
            checkpoint=args.checkpoint,
            auxiliary=[str(root) for root in args.auxiliary],
            min_new_labels=8,
        )
        line.label("product", shown)
        line.keep_good("product", [s.image_path for s in sound[n : n + GOOD]])
        began, cpu = time.monotonic(), time.process_time()
        outcome = _night(line)
        took = f"{time.monotonic() - began:.0f} s, {time.process_time() - cpu:.0f} s of CPU"
        print(f"seed {seed}: {outcome.state.value} in {took}: {outcome.detail[:300]}", flush=True)
        for finding in json.loads(outcome.report_json or '{"findings": []}')["findings"]:
            print(f"  {finding['text']}", flush=True)
        found = {"proposed": float(outcome.state is JobState.PROPOSED)}
        old = new = open_model(args.checkpoint, "cpu")
        if outcome.state is JobState.PROPOSED:
            store = ModelStore(line.models_dir, args.checkpoint)
            new = open_model(store.path_of(str(outcome.candidate)), "cpu")
        fresh = [*sound[n + GOOD :][:FRESH], *defective[n:][:FRESH]]
        sets = {"fresh frames": fresh} | {
            root.name: limit_per_category(read_dataset(root, "mvtec"), 2 * FRESH)
            for root in args.unseen
        }
        for name, samples in sets.items():
            before = measured(old, samples)
            after = before if new is old else measured(new, samples)
            for metric, value, other in zip(("I-AUROC", "P-AUROC"), before, after, strict=True):
                found |= {f"{name} {metric} before": value, f"{name} {metric} after": other}
        line.close()
    print(f"seed {seed}: { ({name: round(100 * v, 1) for name, v in found.items()}) }", flush=True)
    return found


def samples_of(product: Path, rng: np.random.Generator) -> tuple[list[Sample], list[Sample]]:
    """A category's sound and defective images, shuffled."""
    found = [s for s in read_dataset(product.parent, "mvtec") if s.category == product.name]
    found = [found[i] for i in rng.permutation(len(found))]
    return [s for s in found if not s.is_anomalous], [s for s in found if s.is_anomalous]


def _night(line: NightLine) -> Outcome:
    now = datetime.now(UTC)
    return run_job(
        line.engine,
        line.config,
        due_utc=now,
        until_utc=None,
        now=lambda: datetime.now(UTC),
        stop=threading.Event(),
        show=lambda step, done, total: None,
    )


def measured(predictor: Predictor, samples: list[Sample]) -> tuple[float, float]:
    """I-AUROC and P-AUROC, means over categories."""
    mean = evaluate(predictor, samples, batch_size=8, warn=lambda _: None).mean()
    return mean["image_AUROC"], mean["pixel_AUROC"]


if __name__ == "__main__":
    main()
