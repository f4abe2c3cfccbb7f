"""`zsad datasets`: published data sets by name, what to download, and whether it is complete."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from daemon.cli.output import progress_bar, warn
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from zsad.datasets.named import DatasetName, NamedDataset


@dataclass(frozen=True, slots=True)
class _Check:
    """What is under ROOT of one data set; the message says what is wrong and what to do."""

    state: Literal["complete", "not there", "faulty"]
    message: str = ""


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `datasets`."""
    parser = subparsers.add_parser(
        "datasets",
        help="published data sets by name: licence, images, what to download and where to put it",
    )
    parser.add_argument("name", nargs="?", type=dataset_name, metavar="NAME")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="ROOT",
        help="check what is there: numbers of images, every image and every mask",
    )
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="write the crops that the papers test on, beside the download (sdd, aitex)",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(run=_run_datasets)


def add_dataset_argument(parser: argparse._ActionsContainer) -> None:
    """Adds `--dataset`, a name of the catalogue; ROOT is then the folder of all data sets."""
    parser.add_argument(
        "--dataset",
        type=dataset_name,
        metavar="NAME",
        help="a published data set in the folder ROOT; `zsad datasets` lists them",
    )


def dataset_name(word: str) -> "DatasetName":
    """A name of the catalogue.

    Raises:
        argparse.ArgumentTypeError: there is no such data set.
    """
    from zsad.datasets.catalogue import DATASET_NAMES

    for name in DATASET_NAMES:
        if name == word:
            return name
    raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(DATASET_NAMES)}")


def _run_datasets(args: argparse.Namespace) -> int:
    from zsad.datasets.catalogue import DATASET_NAMES, named_dataset

    chosen = [named_dataset(name) for name in ([args.name] if args.name else DATASET_NAMES)]
    if args.prepare:
        _prepare(chosen, args.data)
    checks: dict[str, _Check] = {}
    if args.data is not None:
        if not args.data.is_dir():
            raise ConfigError(f"{args.data} is not a folder: give the one that holds the data sets")
        checks = {dataset.name: _check(dataset, args.data) for dataset in chosen}
    if args.json:
        rows = [_json(dataset, checks.get(dataset.name)) for dataset in chosen]
        Console(soft_wrap=True).print(json.dumps(rows, indent=2), markup=False, highlight=False)
    elif args.name:
        _show_one(chosen[0], checks.get(args.name))
    else:
        _show_all(chosen, checks)
    failing = ("faulty", "not there") if args.name else ("faulty",)
    return int(any(check.state in failing for check in checks.values()))


def _prepare(chosen: "Sequence[NamedDataset]", root: Path | None) -> None:
    from zsad.image_files import DataError

    if root is None or len(chosen) != 1:
        raise ConfigError("--prepare needs a NAME and --data ROOT: zsad datasets sdd --data ROOT")
    try:
        with progress_bar("Cutting") as advance:
            chosen[0].make_ready(root, warn=warn, progress=advance)
    except DataError as error:
        raise ConfigError(str(error)) from error


def _check(dataset: "NamedDataset", root: Path) -> _Check:
    from zsad.data import check_samples
    from zsad.image_files import DataError

    is_there = dataset.is_present(root) or (root / dataset.folder).is_dir()
    try:
        samples = dataset.read(root, warn=warn)
        with progress_bar(f"Checking {dataset.title}") as advance:
            check_samples(samples, warn=warn, progress=advance)
    except DataError as error:
        return _Check("faulty" if is_there else "not there", str(error))
    return _Check("complete")


def _json(dataset: "NamedDataset", check: _Check | None) -> dict[str, object]:
    facts: dict[str, object] = {
        "name": dataset.name,
        "title": dataset.title,
        "domain": dataset.domain,
        "licence": dataset.licence,
        "home": dataset.home,
        "download": dataset.download,
        "folder": dataset.folder,
        "layout": dataset.layout,
        "bytes_estimate": dataset.bytes_estimate,
        "n_normal": dataset.total.normal,
        "n_anomalous": dataset.total.anomalous,
        "categories": {
            name: {"n_normal": counts.normal, "n_anomalous": counts.anomalous}
            for name, counts in dataset.expected_counts.items()
        },
        "masks": dataset.masks,
        "deviation": dataset.deviation,
    }
    if check is not None:
        facts |= {"state": check.state, "message": check.message}
    return facts


def _show_all(chosen: "Sequence[NamedDataset]", checks: Mapping[str, _Check]) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for header in ("name", "normal", "anom.", "masks", "folder under ROOT", "licence"):
        is_number = header in ("normal", "anom.")
        table.add_column(header, justify="right" if is_number else "left", overflow="fold")
    if checks:
        table.add_column("state", overflow="fold")
    for dataset in chosen:
        table.add_row(
            dataset.name,
            str(dataset.total.normal),
            str(dataset.total.anomalous),
            dataset.masks,
            dataset.folder,
            dataset.licence,
            *([checks[dataset.name].state] if checks else []),
        )
    console = Console()
    console.print(table)
    for name, check in checks.items():
        if check.state == "faulty":
            console.print(f"{name}: {check.message}", markup=False, soft_wrap=True, highlight=False)
    console.print("zsad datasets NAME says what to download and where to put it", highlight=False)


def _show_one(dataset: "NamedDataset", check: _Check | None) -> None:
    known = dataset.expected_counts
    lines = [
        f"{dataset.title} ({dataset.name}), {dataset.domain}: {dataset.total} test images, "
        f"masks: {dataset.masks}",
        f"licence   {dataset.licence}",
        f"page      {dataset.home}",
        f"download  {dataset.download}, about {dataset.bytes_estimate / 1e9:.2g} GB unpacked",
        f"put it    ROOT/{dataset.folder}, so that it holds {dataset.layout}",
    ]
    if dataset.prepare is not None:
        lines.append(f"then run  zsad datasets {dataset.name} --data ROOT --prepare")
    if dataset.deviation:
        lines.append(f"note      {dataset.deviation}")
    lines += [
        f"  {category.name}: {known.get(category.name, 'number not published')} "
        f"(in prompts: {category.class_name})"
        for category in dataset.categories
    ]
    if check is not None:
        lines.append(f"state     {check.state}" + (f": {check.message}" if check.message else ""))
    Console().print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
