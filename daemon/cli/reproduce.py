"""`zsad reproduce`: make one published table again, and lay ours beside it."""

import argparse
import json
import shlex
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from daemon.cli.arguments import positive_float, positive_int
from daemon.cli.output import make_parent, progress_bar, warn, write_file
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from zsad.reproduce.comparison import Compared
    from zsad.reproduce.plan import MeasureStep, Plan, Site, TrainStep
    from zsad.reproduce.run import HowToRun

DEFAULT_TFLOPS = 50.0
"""Assumed, not measured: what a data-centre GPU sustains on such networks in 16 bits."""
EXIT_MISSING = 2


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `reproduce`."""
    parser = subparsers.add_parser(
        "reproduce",
        help="train and test what a published table needs; the same command again goes on",
    )
    parser.add_argument("table", nargs="?", metavar="TABLE", help="as --list names it")
    parser.add_argument("--list", action="store_true", help="show the tables and stop")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="parent of the data sets")
    parser.add_argument("--out", type=Path, metavar="DIR", help="checkpoints and results")
    parser.add_argument(
        "--pretrained",
        action="append",
        default=[],
        metavar="[MODEL=]FILE|TAG",
        help="the backbone's weights; its published tag (openai) lets open_clip download them",
    )
    parser.add_argument(
        "--cnn-weights", type=Path, metavar="FILE", help="ImageNet weights of resnet50"
    )
    parser.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="NAME",
        help="a column of the table, or all; may be repeated (the paper's own)",
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="SET", help="test on these data sets only"
    )
    parser.add_argument("--plan", action="store_true", help="show steps and costs and stop")
    parser.add_argument(
        "--tflops",
        type=positive_float,
        default=DEFAULT_TFLOPS,
        help=f"rate that GPU hours are counted at ({DEFAULT_TFLOPS:g}, an assumption)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (cpu)")
    parser.add_argument("--batch", type=positive_int, default=8, help="images tested at once (8)")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="of training (fp32)"
    )
    parser.add_argument(
        "--allow-other-counts",
        action="store_true",
        help="go on with data sets of other sizes than the papers'; the figures are not theirs",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the comparison as JSON")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="and as Markdown")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    console = Console()
    if args.list or args.table is None:
        console.print(_tables())
        return 0
    for option, value in (("--data", args.data), ("--out", args.out)):
        if value is None:
            raise ConfigError(f"{option} is missing")
    for path in (args.json, args.markdown):
        make_parent(path)
    plan = _plan(args)
    if plan.missing or args.plan:
        console.print(_costs(plan, args.tflops))
        _print_missing(plan, console)
        return EXIT_MISSING if plan.missing else 0
    _make(plan, args, console)
    _report(plan, args, console)
    return 0


def _plan(args: argparse.Namespace) -> "Plan":
    from zsad.backbone import BackboneError
    from zsad.published.table import UnknownTableError, read_table
    from zsad.reproduce.plan import SelectionError, make_plan, select_columns

    try:
        table = read_table(args.table)
        columns = select_columns(table, args.method)
        return make_plan(table, columns, _site(args), only=args.only, seed=args.seed)
    except (BackboneError, SelectionError, UnknownTableError) as error:
        raise ConfigError(str(error)) from error


def _site(args: argparse.Namespace) -> "Site":
    from zsad.reproduce.plan import Site
    from zsad.reproduce.weights import ANY_MODEL

    pretrained = {}
    for word in args.pretrained:
        model, equals, weights = word.partition("=")
        pretrained[model if equals else ANY_MODEL] = weights if equals else word
    return Site(args.data, args.out, pretrained, args.cnn_weights)


def _make(plan: "Plan", args: argparse.Namespace, console: Console) -> None:
    """Run what is open, saying each step.

    Raises:
        ConfigError: a step cannot be made.
    """
    from zsad.backbone import BackboneError
    from zsad.checkpoint import CheckpointError
    from zsad.frozen_cnn import CnnError
    from zsad.image_files import DataError
    from zsad.reproduce.run import run_plan
    from zsad.train import TrainingError

    n_done = sum(step.is_done for step in plan.steps)

    def say(step: "TrainStep | MeasureStep") -> None:
        nonlocal n_done
        n_done += 1
        console.print(f"[{n_done}/{len(plan.steps)}] {step.label}", markup=False, soft_wrap=True)

    try:
        run_plan(plan, _how(args), on_step=say)
    except (BackboneError, CheckpointError, CnnError, DataError, TrainingError) as error:
        raise ConfigError(str(error)) from error


def _how(args: argparse.Namespace) -> "HowToRun":
    import torch

    from zsad.reproduce.run import HowToRun

    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:  # unknown, or torch was built without it
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {args.device} cannot be used: {reason}") from error
    return HowToRun(
        data_root=args.data,
        device=torch.device(args.device),
        seed=args.seed,
        batch_size=args.batch,
        command=shlex.join(["zsad", "reproduce", args.table, "--seed", str(args.seed)]),
        watch=progress_bar,
        warn=warn,
        precision=args.precision,
        allow_other_counts=args.allow_other_counts,
    )


def _report(plan: "Plan", args: argparse.Namespace, console: Console) -> None:
    from zsad.reproduce.comparison import ResultError, compare, to_json, to_markdown

    try:
        compared = compare(plan)
    except ResultError as error:
        raise ConfigError(str(error)) from error
    table = plan.table
    console.print(_comparison(compared, f"{table.title} (percent)"))
    for note in table.notes:
        console.print(f"note: {note}", markup=False)
    if args.json is not None:
        facts = {"table": table.name, "source": table.source, "values": to_json(compared)}
        write_file(args.json, (json.dumps(facts, indent=2) + "\n").encode())
    if args.markdown is not None:
        text = to_markdown(compared, f"{table.title}. {table.source}.")
        write_file(args.markdown, text.encode())
    for path in (args.json, args.markdown):
        if path is not None:
            console.print(f"written: {path}", markup=False, soft_wrap=True)


def _tables() -> Table:
    from zsad.published.table import read_table, table_names

    shown = Table(title="published tables", box=box.SIMPLE_HEAD)
    for heading in ("TABLE", "what", "own methods", "source"):
        shown.add_column(heading, overflow="fold")
    for name in table_names():
        table = read_table(name)
        own = ", ".join(column.name for column in table.columns if column.own)
        shown.add_row(name, table.title, own, table.source)
    return shown


def _costs(plan: "Plan", tflops: float) -> Table:
    """Every step with operations, hours and disk; what is done costs nothing more."""
    shown = Table(
        title=f"{plan.table.title}: steps (hours at {tflops:g} TFLOP/s)",
        box=box.SIMPLE_HEAD,
        show_footer=True,
    )
    steps = plan.steps
    open_steps = [step for step in steps if not step.is_done]
    flops = sum(step.cost.flops for step in open_steps)
    disk = sum(step.cost.disk_bytes for step in open_steps)
    footers = ("all open steps", f"{flops:.3g}", _hours(flops, tflops), _size(disk))
    for heading, footer in zip(("step", "FLOP", "hours", "disk"), footers, strict=True):
        shown.add_column(heading, footer=footer, justify="left" if heading == "step" else "right")
    for step in steps:
        if step.is_done:
            shown.add_row(step.label, "done", "", "")
        else:
            cost = step.cost
            hours, disk_words = _hours(cost.flops, tflops), _size(cost.disk_bytes)
            shown.add_row(step.label, f"{cost.flops:.3g}", hours, disk_words)
    return shown


def _print_missing(plan: "Plan", console: Console) -> None:
    if not plan.missing:
        console.print("nothing is missing")
        return
    total = sum(missing.size_bytes for missing in plan.missing)
    console.print(f"missing, about {_size(total)} in all:", markup=False)
    for missing in plan.missing:
        console.print(
            f"- {missing.what}, about {_size(missing.size_bytes)}\n"
            f"  looked for: {missing.where}\n  {missing.how}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _comparison(compared: "Iterable[Compared]", title: str) -> Table:
    from zsad.evaluate import METRIC_TITLES
    from zsad.reproduce.comparison import in_percent

    shown = Table(title=title, box=box.SIMPLE_HEAD)
    for heading in ("row", "method", "metric"):
        shown.add_column(heading, overflow="fold")
    for heading in ("published", "ours", "difference"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for _, group in groupby(compared, key=lambda one: one.row):
        for one in group:
            shown.add_row(one.row, one.column, METRIC_TITLES[one.metric], *in_percent(one))
        shown.add_section()
    return shown


def _hours(flops: float, tflops: float) -> str:
    hours = flops / (tflops * 1e12) / 3600
    return "< 0.01" if 0 < hours < 0.01 else f"{hours:.2f}"


def _size(count: int) -> str:
    """Bytes in the unit that people read."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
