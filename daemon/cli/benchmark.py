"""`zsad benchmark`: how fast methods run on this machine, beside the bare network under them."""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from daemon.cli.arguments import positive_int
from daemon.cli.output import make_parent, progress_bar, warn, write_file
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from zsad.backbone import Backbone
    from zsad.benchmark import Benchmark, Settings

ALL = "all"
DEFAULT_BATCHES = (1, 2, 4, 8, 16, 32)
EXIT_FAILED = 1


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `benchmark`."""
    parser = subparsers.add_parser(
        "benchmark",
        help="measure how fast methods run here, beside the bare network under them",
        epilog="Weights are random where the backbone does not bring its own: nothing is "
        "downloaded, and no value changes the time.",
    )
    parser.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="NAME|all",
        help="as in a configuration; may be repeated (all)",
    )
    parser.add_argument(
        "--backbone",
        default="compact-v1",
        metavar="NAME",
        help="compact-v1, or an open_clip model such as ViT-B-32 (compact-v1)",
    )
    parser.add_argument(
        "--image-size", type=positive_int, metavar="PX", help="input side (the backbone's own)"
    )
    parser.add_argument(
        "--batch",
        type=_batches,
        default=DEFAULT_BATCHES,
        metavar="N,N,...",
        help="images at once (1,2,4,8,16,32)",
    )
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=positive_int, metavar="N", help="of torch on the CPU")
    parser.add_argument(
        "--repeat", type=positive_int, default=5, metavar="N", help="calls of each, by turns (5)"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything measured")
    parser.add_argument("--plot", type=Path, metavar="OUT.png", help="draw the ratios")
    parser.set_defaults(run=_run_benchmark)


def _batches(text: str) -> tuple[int, ...]:
    """`1,8,32` as numbers, each once, rising."""
    return tuple(sorted({positive_int(part) for part in text.split(",")}))


def _run_benchmark(args: argparse.Namespace) -> int:
    import torch

    from zsad.benchmark import run_benchmark, to_json
    from zsad.kept_memory import keep_freed_memory

    keep_freed_memory()  # as the daemon does
    for path in (args.json, args.plot):
        make_parent(path)
    methods = _methods(args.method)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    settings = _settings(args)
    backbone = _backbone(args).to(settings.device)
    with progress_bar("Measuring") as advance:
        found = run_benchmark(backbone, methods, settings, advance)
    for name, reason in found.left_out.items():
        warn(f"{name} is left out: {reason}")
    if not found.rows:
        warn("nothing was measured")
        return EXIT_FAILED
    contents = to_json(found, backbone, settings, datetime.now(UTC))
    title = (
        f"{backbone.name} at {backbone.input_size} px, {settings.precision}, "
        f"{contents['device']}, {contents['threads']} threads"
    )
    Console().print(_table(found, title))
    if args.json is not None:
        write_file(args.json, (json.dumps(contents, indent=2) + "\n").encode())
    if args.plot is not None:
        from zsad.benchmark_plot import ratio_plot

        write_file(args.plot, ratio_plot(found, title))
    return 0


def _methods(asked: list[str]) -> list[str]:
    from zsad.benchmark import method_names

    known = method_names()
    for name in asked:
        if name not in (*known, ALL):
            raise ConfigError(f"there is no method {name!r}: choose all, or of {', '.join(known)}")
    return list(known) if not asked or ALL in asked else list(dict.fromkeys(asked))


def _settings(args: argparse.Namespace) -> "Settings":
    from zsad.benchmark import Settings
    from zsad.predictor import DeviceError, choose_device

    try:
        device = choose_device(args.device)
    except DeviceError as error:
        raise ConfigError(str(error)) from error
    if args.precision == "fp16" and device.type == "cpu":
        raise ConfigError("--precision fp16 is for a GPU: on a CPU take bf16 or fp32")
    return Settings(args.batch, args.repeat, args.precision, device)


def _backbone(args: argparse.Namespace) -> "Backbone":
    from pydantic import ValidationError

    from zsad.backbone import BackboneError
    from zsad.config.backbone import BackboneConfig
    from zsad.outline import random_backbone

    try:
        return random_backbone(BackboneConfig(name=args.backbone, image_size=args.image_size))
    except ValidationError as error:
        raise ConfigError(f"--image-size {args.image_size}: {error.errors()[0]['msg']}") from error
    except BackboneError as error:
        raise ConfigError(str(error)) from error


def _table(found: "Benchmark", title: str) -> Table:
    shown = Table(title=title, box=box.SIMPLE_HEAD)
    shown.add_column("method", no_wrap=True)
    for heading in ("batch", "img/s", "ms/img", "ratio", "analytic", "matmul", "MB"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in found.rows:
        memory = "" if row.memory is None else f"{row.memory.peak_bytes / 1e6:.0f}"
        shown.add_row(
            row.method,
            str(row.batch),
            f"{1 / row.image_s:.1f}",
            f"{1e3 * row.image_s:.1f}",
            f"{row.ratio:.2f}",
            f"{row.analytic_ratio:.2f}",
            f"{row.flops_per_s / row.matrix_flops_per_s:.0%}",
            memory,
        )
    return shown
