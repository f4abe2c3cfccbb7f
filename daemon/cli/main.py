"""Entry point of `zsad`: parses the command line, runs one command, turns errors into sentences."""

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version

from rich.console import Console

from daemon.cli import (
    benchmark,
    calibrate,
    database,
    datasets,
    demo,
    doctor,
    evaluate,
    explain,
    keys,
    label,
    model,
    nightly,
    operate,
    publish,
    query,
    reload,
    report,
    reproduce,
    run,
    train,
)
from daemon.errors import ConfigError, ModelError, StorageError
from daemon.ownership import ForeignPackageError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
_INSUFFICIENT_PRIVILEGE = "42501"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 fine, 1 failed, 2 wrong usage or configuration.
    """
    arguments = _parser().parse_args(_joined(sys.argv[1:] if argv is None else argv))
    try:
        result: int = arguments.run(arguments)
    except (ConfigError, ModelError, StorageError) as error:
        Console(stderr=True, soft_wrap=True).print(f"zsad: {error}", markup=False, highlight=False)
        return error.exit_code if isinstance(error, ForeignPackageError) else EXIT_USAGE
    except BrokenPipeError:  # `zsad ... | head`
        sys.stderr.close()
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        if (refusal := _refusal_of_database(error)) is None:
            raise
        text = f"zsad: the database refuses: {refusal}"
        Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False)
        return EXIT_FAILED
    return result


def _joined(words: Sequence[str]) -> Sequence[str]:
    """`train nightly` is a command of its own: its options are others than those of `train`."""
    if list(words[:2]) == nightly.NAME.split():
        return [nightly.NAME, *words[2:]]
    return words


def _refusal_of_database(error: Exception) -> str | None:
    """What a database says that is away, locked, full, or grants no right; None for the rest."""
    found = sys.modules.get("sqlalchemy.exc")  # where it is not loaded, no database was asked
    if found is None or not isinstance(error, found.DBAPIError):
        return None
    has_no_right = getattr(error.orig, "sqlstate", None) == _INSUFFICIENT_PRIVILEGE
    if not (has_no_right or isinstance(error, found.OperationalError)):
        return None
    return str(error.orig).strip().partition("\n")[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zsad",
        description="Zero-shot visual inspection for production lines.",
        epilog="Exit codes: 0 fine, 1 failed, 2 wrong usage or configuration.",
    )
    parser.add_argument("--version", action="version", version=f"zsad {version('zsad')}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (
        run,
        operate,
        doctor,
        reload,
        calibrate,
        publish,
        report,
        query,
        explain,
        label,
        model,
        database,
        keys,
        datasets,
        evaluate,
        benchmark,
        train,
        nightly,
        reproduce,
        demo,
    ):
        module.add_commands(subparsers)
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
