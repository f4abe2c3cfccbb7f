"""`zsad datasets`, and `--dataset` of the commands that read data; docs/datasets.md agrees."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.cli import evaluate
from daemon.cli.main import main
from zsad.datasets.catalogue import DATASET_NAMES, named_dataset
from zsad.datasets.named import DatasetName, NamedDataset

Write = Callable[..., Path]
DOCS = Path(__file__).parents[2] / "docs" / "datasets.md"


@pytest.fixture
def cvc_300(tmp_path: Path, write_image: Write, write_mask: Write) -> Path:
    """Root with all 60 images of CVC-300, tiny."""
    for number in range(60):
        write_image(tmp_path / "CVC-300" / "images" / f"{number}.png", has_defect=True)
        write_mask(tmp_path / "CVC-300" / "masks" / f"{number}.png")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_all_sets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "datasets", "--json")

    rows = json.loads(out)
    assert code == 0
    assert [row["name"] for row in rows] == list(DATASET_NAMES)
    assert rows[0]["categories"]["tile"] == {"n_normal": 33, "n_anomalous": 84}
    assert "state" not in rows[0]


def test_the_table_names_all_sets(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "datasets")

    assert code == 0
    assert all(name in out for name in DATASET_NAMES)


def test_one_set_says_what_to_download_and_where_to_put_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capsys, "datasets", "sdd")

    assert code == 0
    assert "https://www.vicos.si/resources/kolektorsdd/" in out
    assert "ROOT/KolektorSDD" in out
    assert "zsad datasets sdd --data ROOT --prepare" in out


def test_a_complete_set_passes_its_check(cvc_300: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "datasets", "cvc_300", "--data", cvc_300)

    assert code == 0
    assert out.endswith("state     complete\n")


def test_a_missing_set_fails_its_check_alone_but_not_among_all(
    cvc_300: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, out, _ = run(capsys, "datasets", "visa", "--data", cvc_300)
    among_all, listed, _ = run(capsys, "datasets", "--data", cvc_300, "--json")

    assert (alone, among_all) == (1, 0)
    assert f"not there: VisA is not in {cvc_300 / 'VisA_20220922'}" in out
    states = {row["name"]: row["state"] for row in json.loads(listed)}
    assert (states["cvc_300"], states["visa"]) == ("complete", "not there")


def test_a_faulty_mask_fails_the_check(
    cvc_300: Path, write_mask: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mask(cvc_300 / "CVC-300" / "masks" / "7.png", side=41)

    code, out, _ = run(capsys, "datasets", "--data", cvc_300)

    assert code == 1
    assert "7.png is 41 x 41 pixels" in out


def test_crops_are_written_by_prepare_only(
    tmp_path: Path,
    write_image: Write,
    write_mask: Write,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "KolektorSDD" / "kos01"
    write_image(folder / "Part0.jpg")
    write_mask(folder / "Part0_label.bmp")

    before = run(capsys, "datasets", "sdd", "--data", tmp_path)
    prepared = run(capsys, "datasets", "sdd", "--data", tmp_path, "--prepare")

    assert before[0] == prepared[0] == 1  # one picture is not the whole set
    assert "faulty" in before[1]
    assert "--prepare" in before[1]
    assert "found 1 normal + 2 anomalous, expected 286 normal + 54 anomalous" in prepared[1]


def test_a_root_that_is_no_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "datasets", "--data", tmp_path / "none")

    assert code == 2
    assert "none is not a folder" in err


def test_prepare_needs_a_name_and_a_root(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "datasets", "--prepare")

    assert code == 2
    assert "--prepare needs a NAME and --data ROOT" in err


def test_an_unknown_name_is_refused_with_all_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["datasets", "mvtec"])

    assert left.value.code == 2
    assert "'mvtec' is none of mvtec_ad, visa" in capsys.readouterr().err


def test_a_named_set_is_read_for_the_test(cvc_300: Path) -> None:
    parser = argparse.ArgumentParser()
    evaluate.add_commands(parser.add_subparsers())

    args = parser.parse_args(["test", "--data", str(cvc_300), "--dataset", "cvc_300"])

    samples = evaluate.read_samples(args)
    assert len(samples) == 60
    assert {(s.category, s.class_name) for s in samples} == {("cvc_300", "colon")}


def test_a_named_set_with_other_counts_is_refused(
    cvc_300: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cvc_300 / "CVC-300" / "images" / "7.png").unlink()

    code, _, err = run(capsys, "test", "--data", cvc_300, "--dataset", "cvc_300")

    assert code == 2
    assert "found 0 normal + 59 anomalous, expected 0 normal + 60 anomalous" in err


@pytest.mark.parametrize("command", ["test", "train"])
def test_a_layout_or_a_name_is_needed_but_not_both(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [command, "--data", str(tmp_path), "--layout", "mvtec", "--dataset", "visa"]

    with pytest.raises(SystemExit):
        main(words)

    assert "not allowed with argument" in capsys.readouterr().err


def test_training_takes_a_named_set_from_one_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--dataset", "visa", "--backbone", "compact-v1", "--out", tmp_path / "out")
    train = ("train", "--method", "aa_clip", "--data", tmp_path)

    missing = run(capsys, *train, *words)
    two = run(capsys, *train, tmp_path, *words)

    assert (missing[0], two[0]) == (2, 2)
    assert f"VisA is not in {tmp_path / 'VisA_20220922'}" in missing[2]
    assert "--dataset takes one --data ROOT" in two[2]


def row(dataset: NamedDataset) -> str:
    """The line of the documentation's table."""
    total = dataset.total
    return (
        f"| `{dataset.name}` | [{dataset.title}]({dataset.home}) | {total.normal} "
        f"| {total.anomalous} | {dataset.masks} | `{dataset.folder}` | {dataset.licence} |"
    )


@pytest.mark.parametrize("name", DATASET_NAMES)
def test_the_documentation_agrees_with_the_catalogue(name: DatasetName) -> None:
    text = DOCS.read_text(encoding="utf-8")
    dataset = named_dataset(name)

    assert row(dataset) in text
    assert dataset.deviation in text
