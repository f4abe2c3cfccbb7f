"""`zsad query`: the newest inspections, losses, events and nights, filtered; no SQL needed."""

import argparse
import json
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from daemon.cli.arguments import positive_int
from daemon.cli.line_database import add_line_arguments, local_instant, open_line
from daemon.config.line import Config
from daemon.core import LossReason, Severity, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _typeshed import DataclassInstance
    from sqlalchemy import Connection

    from daemon.report.recent import (
        EventFound,
        Filters,
        InspectionFound,
        LossFound,
        ModelChangeFound,
        NightFound,
    )

Row = TypeVar("Row", bound="DataclassInstance")


class Find(Protocol[Row]):
    """One of the look-ups of `daemon.report.recent`."""

    def __call__(self, connection: "Connection", filters: "Filters", /, *, limit: int) -> list[Row]:
        """At most `limit` rows, newest first."""
        ...


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `query inspections`, `losses`, `events`, `models` and `nights`."""
    group = subparsers.add_parser("query", help="look up inspections, losses and events")
    queries = group.add_subparsers(title="queries", metavar="WHAT", required=True)

    parser = queries.add_parser("inspections", help="the newest inspections, newest first")
    parser.add_argument("--verdict", type=str.upper, choices=[verdict.value for verdict in Verdict])
    parser.add_argument("--part", metavar="ID", help="part_id as sent by the camera program")
    _add_filter_arguments(parser)
    parser.set_defaults(run=_run_inspections)

    parser = queries.add_parser("losses", help="the newest frames without an inspection")
    parser.add_argument("--reason", choices=[reason.value for reason in LossReason])
    _add_filter_arguments(parser)
    parser.set_defaults(run=_run_losses)

    parser = queries.add_parser("events", help="the line's diary: alarms, starts, refusals")
    parser.add_argument("--severity", choices=[severity.value for severity in Severity])
    _add_filter_arguments(parser)
    parser.set_defaults(run=_run_events)

    parser = queries.add_parser("models", help="who or what changed the line's models, and why")
    _add_time_arguments(parser)
    parser.set_defaults(run=_run_models)
    parser = queries.add_parser("nights", help="what the nightly training did")
    _add_time_arguments(parser)
    parser.set_defaults(run=_run_nights)


def _add_filter_arguments(parser: argparse.ArgumentParser) -> None:
    _add_time_arguments(parser)
    parser.add_argument("--camera")
    parser.add_argument("--category")


def _add_time_arguments(parser: argparse.ArgumentParser) -> None:
    add_line_arguments(parser)
    parser.add_argument("--from", dest="start", metavar="TIME", help="2026-01-31T06:00, local time")
    parser.add_argument("--to", dest="end", metavar="TIME", help="up to but without this time")
    parser.add_argument("--limit", type=positive_int, default=20, help="at most (20)")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def _run_inspections(args: argparse.Namespace) -> int:
    from daemon.report.recent import recent_inspections

    verdict = None if args.verdict is None else Verdict(args.verdict)
    find = partial(recent_inspections, verdict=verdict, part_id=args.part)
    return _answer(args, "inspections", find, _print_inspections)


def _run_losses(args: argparse.Namespace) -> int:
    from daemon.report.recent import recent_losses

    reason = None if args.reason is None else LossReason(args.reason)
    return _answer(args, "losses", partial(recent_losses, reason=reason), _print_losses)


def _run_events(args: argparse.Namespace) -> int:
    from daemon.report.recent import recent_events

    severity = None if args.severity is None else Severity(args.severity)
    return _answer(args, "events", partial(recent_events, severity=severity), _print_events)


def _run_models(args: argparse.Namespace) -> int:
    from daemon.report.recent import recent_model_changes

    return _answer(args, "models", recent_model_changes, _print_models)


def _run_nights(args: argparse.Namespace) -> int:
    from daemon.report.recent import recent_nights

    return _answer(args, "nights", recent_nights, _print_nights)


def _answer(
    args: argparse.Namespace,
    name: str,
    find: "Find[Row]",
    show: "Callable[[list[Row], Config], None]",
) -> int:
    """Find the rows and print them, as a table or as JSON under `name`."""
    with open_line(args) as (config, engine), engine.connect() as connection:
        found = find(connection, _filters(args, config), limit=args.limit)
    if args.json:
        _print_json(name, found)
    else:
        show(found, config)
    return 0


def _filters(args: argparse.Namespace, config: Config) -> "Filters":
    from daemon.report.recent import Filters

    return Filters(
        line=config.line,
        camera=getattr(args, "camera", None),
        category=getattr(args, "category", None),
        from_utc=local_instant(args.start, "--from", config) if args.start else None,
        to_utc=local_instant(args.end, "--to", config) if args.end else None,
    )


def _print_json(name: str, found: "Sequence[DataclassInstance]") -> None:
    """One object with one array; times are ISO 8601 in UTC."""
    rows = [
        {
            key: value.isoformat() if isinstance(value, datetime) else value
            for key, value in asdict(row).items()
        }
        for row in found
    ]
    Console().file.write(json.dumps({name: rows}, indent=2, ensure_ascii=False) + "\n")


def _print_inspections(found: "list[InspectionFound]", config: Config) -> None:
    from daemon.report.words import clean, score

    table = _table("id", f"received ({config.timezone})", "camera", "category", "verdict", "score")
    table.add_column("NG from")
    table.add_column("part or reason", overflow="fold")
    for row in found:
        cells = (
            str(row.inspection_id),
            _local(row.received_utc, config),
            row.camera,
            row.category,
            row.verdict,
            score(row.pred_score),
            score(row.ng_threshold),
            row.part_id or row.error_reason or "",
        )
        table.add_row(*(Text(clean(cell)) for cell in cells))
    _print_table(table, "no inspection matches")


def _print_losses(found: "list[LossFound]", config: Config) -> None:
    from daemon.report.words import NO_VALUE, clean

    table = _table(f"lost ({config.timezone})", "camera", "reason", "frames", "numbers")
    table.add_column("detail", overflow="fold")
    for row in found:
        cells = (
            _local(row.lost_utc, config),
            row.camera or NO_VALUE,
            row.reason,
            str(row.frames),
            _numbers(row),
            row.detail,
        )
        table.add_row(*(Text(clean(cell)) for cell in cells))
    _print_table(table, "no loss matches")


def _numbers(found: "LossFound") -> str:
    """The running numbers that are missing; empty where the message told none."""
    if found.first_seq is None or found.last_seq is None:
        return ""
    if found.first_seq == found.last_seq:
        return str(found.first_seq)
    return f"{found.first_seq}-{found.last_seq}"


def _print_events(found: "list[EventFound]", config: Config) -> None:
    from daemon.report.words import NO_VALUE, clean

    table = _table(f"at ({config.timezone})", "severity", "event", "camera", "category")
    table.add_column("detail", overflow="fold")
    for row in found:
        cells = (
            _local(row.at_utc, config),
            row.severity,
            row.kind,
            row.camera or NO_VALUE,
            row.category or NO_VALUE,
            row.detail,
        )
        table.add_row(*(Text(clean(cell)) for cell in cells))
    _print_table(table, "no event matches")


def _print_models(found: "list[ModelChangeFound]", config: Config) -> None:
    from daemon.report.words import NO_VALUE, clean

    table = _table(f"at ({config.timezone})", "what", "model", "other model", "by")
    table.add_column("reason", overflow="fold")
    for row in found:
        cells = (
            _local(row.at_utc, config),
            row.kind,
            row.version,
            row.previous or NO_VALUE,
            row.author,
            row.reason,
        )
        table.add_row(*(Text(clean(cell)) for cell in cells))
    _print_table(table, "no model was changed")


def _print_nights(found: "list[NightFound]", config: Config) -> None:
    from daemon.report.words import NO_VALUE, clean

    table = _table(f"due ({config.timezone})", "outcome", "step", "candidate")
    table.add_column("detail", overflow="fold")
    for row in found:
        progress = f" {row.done}/{row.total}" if row.total else ""
        cells = (
            _local(row.due_utc, config),
            row.state,
            row.step + progress,
            row.candidate or NO_VALUE,
            row.detail,
        )
        table.add_row(*(Text(clean(cell)) for cell in cells))
    _print_table(table, "no night was due")


def _table(*names: str) -> Table:
    table = Table()
    for name in names:
        table.add_column(name)
    return table


def _print_table(table: Table, when_empty: str) -> None:
    Console().print(table if table.row_count else when_empty)


def _local(instant: datetime, config: Config) -> str:
    return f"{instant.astimezone(config.zone):%Y-%m-%d %H:%M:%S.%f}"[:-3]
