"""`zsad demo`: a real line on this machine, from two simulated cameras to the shift report."""

import argparse
from datetime import datetime
from pathlib import Path

from rich.console import Console

from daemon.cli.arguments import positive_float, positive_int

REPORT_WIDTH = 100


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `demo`."""
    parser = subparsers.add_parser(
        "demo", help="run the daemon on two simulated cameras and write a shift report"
    )
    parser.add_argument("--out", type=Path, help="folder for database and report")
    parser.add_argument(
        "--rate", type=positive_float, default=4.0, help="frames/s of each camera (4)"
    )
    parser.add_argument(
        "--frames", type=positive_int, default=100, help="frames to judge, each camera (100)"
    )
    parser.set_defaults(run=_run_demo)


def _run_demo(args: argparse.Namespace) -> int:
    from daemon.demo import DemoPlan, run_demo

    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    out: Path = args.out or Path("var") / f"demo-{stamp}"
    console = Console()
    if not console.is_terminal:  # a log file has no width; the report's tables need 100 columns
        console = Console(width=REPORT_WIDTH)
    return run_demo(DemoPlan(out=out, rate_hz=args.rate, judged_frames=args.frames), console)
