"""`zsad doctor`: is this installation fit to run, and what to do if it is not."""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from daemon.config_file import load_config
from daemon.credentials import Secrets
from daemon.doctor.finding import Finding, Level, fail, ok
from daemon.errors import ConfigError

_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `doctor`."""
    parser = subparsers.add_parser(
        "doctor",
        help="check the installation and say what to do",
        description="Check Python, torch, weights, clock, service and, with --config, the line. "
        "Run it as the daemon's user. Exit code 1 if anything is FAIL.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(run=_run_doctor)


def _run_doctor(args: argparse.Namespace) -> int:
    console = Console(soft_wrap=True)
    found: list[Finding] = []
    for finding in _findings(args.config):
        found.append(finding)
        if not args.json:  # at once: loading torch takes seconds
            console.print(_line(finding), highlight=False)
    is_fit = all(finding.level is not Level.FAIL for finding in found)
    if args.json:
        checks = [
            {"level": f.level, "check": f.name, "text": f.text, "advice": f.advice} for f in found
        ]
        text = json.dumps({"ok": is_fit, "checks": checks}, indent=2)
        console.print(text, markup=False, highlight=False)
    return 0 if is_fit else 1


def _findings(path: Path | None) -> Iterator[Finding]:
    from daemon.doctor.machine import check_machine
    from daemon.doctor.software import check_software

    config = None
    if path is not None:
        try:
            config = load_config(path)
        except ConfigError as error:
            yield fail("configuration", str(error), "correct the file")
        else:
            yield ok("configuration", f"{path} is valid")
    yield from check_software(
        [None] if config is None else [config.model.checkpoint, *config.own_checkpoints]
    )
    yield from check_machine()
    if config is not None and path is not None:
        from daemon.doctor.line import check_line

        yield from check_line(config, path.resolve().parent, Secrets(os.environ))


def _line(finding: Finding) -> str:
    colour = _COLOURS[finding.level]
    advice = f"\n{'':19}{escape(finding.advice)}" if finding.advice else ""
    return f"[{colour}]{finding.level:4}[/] {finding.name:13} {escape(finding.text)}{advice}"
