"""`zsad report`: what a shift, or any time, came to."""

import argparse
import io
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from daemon.cli.line_database import add_line_arguments, local_instant, open_line
from daemon.cli.output import make_parent, write_file
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from daemon.report.contents import ShiftReport

FORMATS = ("text", "json", "csv", "html")
TEXT_WIDTH = 100


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `report shift` and `report range`."""
    group = subparsers.add_parser("report", help="report on a shift or any time")
    reports = group.add_subparsers(title="reports", metavar="REPORT", required=True)

    parser = reports.add_parser("shift", help="a planned shift of the line")
    parser.add_argument(
        "--date", type=_day, required=True, metavar="YYYY-MM-DD", help="date the shift starts on"
    )
    parser.add_argument("--shift", required=True, metavar="NAME", help="as configured")
    _add_output_arguments(parser)
    parser.set_defaults(run=_run_shift)

    parser = reports.add_parser("range", help="any time, such as a day or the last hour")
    parser.add_argument(
        "--from", dest="start", required=True, metavar="TIME", help="2026-01-31 or 2026-01-31T06:00"
    )
    parser.add_argument(
        "--to", dest="end", metavar="TIME", help="up to but without this time (default: now)"
    )
    _add_output_arguments(parser)
    parser.set_defaults(run=_run_range)


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    add_line_arguments(parser)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--format", choices=FORMATS, default="text", help="text is the default")
    chosen.add_argument(
        "--json", dest="format", action="store_const", const="json", help="as --format json"
    )
    parser.add_argument("--out", type=Path, metavar="PATH", help="file to write (default: stdout)")


def _run_shift(args: argparse.Namespace) -> int:
    from daemon.report.shift import build_shift_report

    make_parent(args.out)
    with open_line(args) as (config, engine):
        report = build_shift_report(engine, config, args.date, args.shift, now=datetime.now(UTC))
    return _deliver(report, args)


def _run_range(args: argparse.Namespace) -> int:
    from daemon.report.shift import build_window_report

    make_parent(args.out)
    now = datetime.now(UTC)
    with open_line(args) as (config, engine):
        start = local_instant(args.start, "--from", config)
        end = local_instant(args.end, "--to", config) if args.end else now
        if not start < end:
            raise ConfigError(f"--from {start.isoformat()} is not before --to {end.isoformat()}")
        title = f"{start.astimezone(config.zone):%Y-%m-%d %H:%M} to "
        title += f"{end.astimezone(config.zone):%Y-%m-%d %H:%M}"
        report = build_window_report(
            engine, config, start.astimezone(UTC), end.astimezone(UTC), title, now=now
        )
    return _deliver(report, args)


def _deliver(report: "ShiftReport", args: argparse.Namespace) -> int:
    """To the terminal as it is wide, or as a file's content to --out or stdout."""
    from daemon.report.render_terminal import render_terminal

    console = Console()
    if args.format == "text" and args.out is None:
        render_terminal(report, console)
        return 0
    content = _renderer(args.format)(report)
    if args.out is None:
        console.file.write(content)
        return 0
    write_file(args.out, content.encode())
    console.print(f"wrote {args.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _renderer(name: str) -> "Callable[[ShiftReport], str]":
    match name:
        case "json":
            from daemon.report.render_json import render_json

            return render_json
        case "csv":
            from daemon.report.render_csv import render_csv

            return render_csv
        case "html":
            from daemon.report.render_html import render_html

            return render_html
        case _:
            return _render_plain


def _render_plain(report: "ShiftReport") -> str:
    from daemon.report.render_terminal import render_terminal

    out = io.StringIO()
    render_terminal(report, Console(file=out, width=TEXT_WIDTH))
    return out.getvalue()


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date such as 2026-01-31") from error
