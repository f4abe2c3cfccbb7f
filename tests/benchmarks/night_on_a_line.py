"""One night on a real line, from the first frame to the swap of the model.

    python tests/benchmarks/night_on_a_line.py --product TREE/CATEGORY --unseen TREE ... \
        --checkpoint DIR --auxiliary TREE ... --seed 0

TREE is an MVTec tree, DIR what `zsad train` wrote; without it the embedded model learns. Everything
goes the way that people go: the daemon inspects with the checkpoint; `zsad calibrate` makes
thresholds of 30 good images; 16 good and 16 defective frames are published, and labelled with `zsad
label` (half of the defective ones with their masks); `zsad train nightly --now` trains while frames
go on coming; the candidate scores live frames, is promoted, and takes over. Prints what the night
said, frames sent and judged, their latency before and during training, the diary, and AUROC with
both models on fresh frames and on the unseen trees.
"""

import argparse
import itertools
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
import yaml
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "nights"))
sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from daemon_process import Line, wait_until
from nightly_gain import FRESH, GOOD, LABELS, measured, samples_of

from daemon.ingest.publisher import FramePublisher
from daemon.model import open_model
from daemon.training.model_store import ModelStore
from zsad.data import Sample, limit_per_category
from zsad.datasets.layouts import read_dataset
from zsad.image_files import load_image

ROWS = "SELECT count(*) FROM inspection"
SHADOW_FRAMES = 60
AFTER = 40
"""Frames that the new model has to inspect before the line is stopped."""


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--product", type=Path, required=True)
    parser.add_argument("--unseen", type=Path, nargs="*", default=[])
    parser.add_argument("--auxiliary", type=Path, nargs="*", default=[])
    parser.add_argument("--recipe", type=Path, help="of the model's method; default: ours")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=1.0, help="frames a second")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sound, defective = samples_of(args.product, np.random.default_rng(args.seed))
    with TemporaryDirectory() as folder:
        root = Path(folder)
        line = _line(root, args, sound[0].class_name)
        line.write_config()
        config = ("--config", str(line.config_path))
        good = [str(sample.image_path) for sample in sound[LABELS : LABELS + GOOD]]
        line.command("calibrate", "--category", "product", *good, *config)
        line.start()
        try:
            _run(line, config, sound, defective, args.rate)
        finally:
            if line.process is not None:
                line.stop()
        _tell(line)
        active = line.query("SELECT version FROM active_model")
        if active:
            _compare(root, args, active[0][0], sound, defective)


def _line(root: Path, args: argparse.Namespace, noun: str) -> Line:
    line = Line(root, root)
    model = {"device": "cpu", "threads": 1}
    if args.checkpoint is not None:
        model["checkpoint"] = str(args.checkpoint.absolute())
    recipes = {}
    if args.recipe is not None:
        recipes[yaml.safe_load(args.recipe.read_text())["method"]] = str(args.recipe.absolute())
    line.settings |= {
        "categories": {"product": {"class_name": noun}},
        "cameras": {"cam1": {}},
        "model": model,
        "frames": {"dir": "kept", "keep_one_ok_of": 1},
        "training": {
            "models_dir": "models",
            "shadow_frames": SHADOW_FRAMES,
            "auxiliary": [str(root.absolute()) for root in args.auxiliary],
            "recipes": recipes,
        },
    }
    return line


def _run(
    line: Line,
    config: tuple[str, str],
    sound: list[Sample],
    defective: list[Sample],
    rate: float,
) -> None:
    with FramePublisher(line.endpoint, "cam1", category="product", mode="connect") as camera:
        assert camera.wait_for_subscriber(30)
        to_label = [*sound[:LABELS], *defective[:LABELS]]
        for number, sample in enumerate(to_label):
            image = load_image(sample.image_path)
            camera.send(image, pixel_format="RGB8", part_id=f"P{number}")
            wait_until(lambda n=number: line.count(ROWS) > n, "a verdict")
        _label(line, config, to_label)
        live = [*sound[LABELS + GOOD :][:20], *defective[LABELS:][:2]]
        with _stream(camera, live, rate) as sent:
            wait_until(lambda: line.count(ROWS) >= len(to_label) + 60, "frames before", 600)
            _mark(line, "night begins")
            began = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-m", "daemon", "train", "nightly", "--now", *config],
                capture_output=True,
                text=True,
                check=False,
            )
            print(done.stdout, done.stderr[-300:])
            print(f"night: {time.monotonic() - began:.0f} s")
            _mark(line, "night ended")
            if done.stdout.startswith("proposed"):
                decided = "SELECT count(*) FROM event WHERE kind IN ('{}')"
                ends = decided.format("model_swapped', 'model_rejected")
                wait_until(lambda: line.count(ends) > 0, "the decision", 600)
                now = line.count(ROWS)
                wait_until(lambda: line.count(ROWS) >= now + AFTER, "frames after", 600)
        wait_until(lambda: line.count(ROWS) == len(to_label) + sent[0], "every frame")
        print(f"frames: {len(to_label) + sent[0]} sent, {line.count(ROWS)} inspected")


MARKS: dict[str, int] = {}
"""Rows that there were when something began or ended."""


def _mark(line: Line, what: str) -> None:
    MARKS[what] = line.count("SELECT coalesce(max(id), 0) FROM inspection")


@contextmanager
def _stream(camera: FramePublisher, samples: list[Sample], rate: float) -> Iterator[list[int]]:
    """Frames at a rate until the end of the context; how many were sent."""
    images = [load_image(sample.image_path) for sample in samples]
    stop, sent = threading.Event(), [0]

    def run() -> None:
        begin = time.monotonic()
        for number, image in enumerate(itertools.cycle(images)):
            if stop.wait(max(0.0, begin + number / rate - time.monotonic())):
                return
            camera.send(image, pixel_format="RGB8", part_id=f"live-{number}")
            sent[0] += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()


def _label(line: Line, config: tuple[str, str], labelled: list[Sample]) -> None:
    """OK and every other NG frame by their masks, the other NG frames by hand."""
    folder = line.folder / "masks"
    folder.mkdir()
    for number, sample in enumerate(labelled):
        if not sample.is_anomalous:
            height, width = load_image(sample.image_path).shape[:2]
            black: NDArray[np.uint8] = np.zeros((height, width), np.uint8)
            cv2.imwrite(str(folder / f"P{number}.png"), black)
        elif sample.mask_path is not None and number % 2:
            shutil.copy(sample.mask_path, folder / f"P{number}.png")
        else:
            query = f"SELECT id FROM inspection WHERE part_id = 'P{number}'"
            line.command("label", "set", str(line.count(query)), "--verdict", "NG", *config)
    print(line.command("label", "import", "masks", str(folder), *config).stdout.strip())


def _tell(line: Line) -> None:
    begins, ended = MARKS["night begins"], MARKS["night ended"]
    parts = {
        "before the night": f"id <= {begins}",
        "during it": f"id > {begins} AND id <= {ended}",
        "after it": f"id > {ended}",
    }
    for name, where in parts.items():
        rows = line.query(f"SELECT frame_to_verdict_ms FROM inspection WHERE {where}")
        values = [row[0] for row in rows]
        if values:
            p50, p99 = np.percentile(values, [50, 99])
            print(f"frame to verdict {name}: p50 {p50:.0f} ms, p99 {p99:.0f} ms, n {len(values)}")
    print(f"losses: {line.count('SELECT count(*) FROM frame_loss')}")
    print(
        "models:",
        line.query(
            "SELECT m.name, min(i.id), max(i.id), count(*) FROM inspection i "
            "JOIN model_version m ON m.id = i.model_version_id GROUP BY 1 ORDER BY 2"
        ),
    )
    for at_utc, kind, detail in line.query(
        "SELECT at_utc, kind, detail FROM event "
        "WHERE kind LIKE 'model%' OR kind = 'night' ORDER BY at_utc, id"
    ):
        print(f"  {at_utc} {kind}: {detail[:160]}")


def _compare(
    root: Path, args: argparse.Namespace, version: str, sound: list[Sample], defective: list[Sample]
) -> None:
    store = ModelStore(root / "models", args.checkpoint)
    models = [open_model(args.checkpoint, "cpu"), open_model(store.path_of(version), "cpu")]
    sets = {"fresh frames": [*sound[LABELS + GOOD :][:FRESH], *defective[LABELS:][:FRESH]]} | {
        tree.name: limit_per_category(read_dataset(tree, "mvtec"), 2 * FRESH)
        for tree in args.unseen
    }
    for name, samples in sets.items():
        before, after = (measured(model, samples) for model in models)
        for metric, old, new in zip(("I-AUROC", "P-AUROC"), before, after, strict=True):
            print(f"{name}: {metric} {old:.1%} -> {new:.1%}")


if __name__ == "__main__":
    main()
