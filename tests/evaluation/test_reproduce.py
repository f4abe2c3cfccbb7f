"""One published table made again, on generated data and a tiny random CLIP."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from daemon.cli.main import main
from zsad.config.backbone import BackboneConfig
from zsad.datasets.catalogue import named_dataset
from zsad.image_files import DataError
from zsad.published.recipe import RECIPES, Recipe
from zsad.published.table import PublishedTable, read_table
from zsad.reproduce.comparison import Compared, ResultError, compare, to_markdown
from zsad.reproduce.plan import (
    MeasureStep,
    Plan,
    SelectionError,
    Site,
    make_plan,
    select_columns,
)
from zsad.reproduce.run import HowToRun, choose_shots, run_plan

CHILD = Path(__file__).with_name("reproducing_child.py")
N_EACH = 3
"""Normal and anomalous images of each category."""
TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"layers": 4, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 40},
    "text_cfg": {"layers": 2, "width": 48, "heads": 4, "context_length": 77, "vocab_size": 49408},
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneConfig:
    """A checkpoint folder as open_clip writes it."""
    folder = tmp_path_factory.mktemp("clip")
    shape: dict[str, Any] = TINY_CLIP
    with torch.random.fork_rng():
        torch.manual_seed(3)
        clip = open_clip.CLIP(**shape)
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": TINY_CLIP, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return BackboneConfig(name=f"local-dir:{folder}")


@pytest.fixture
def data_root(
    tmp_path: Path, write_image: Callable[..., Path], write_mask: Callable[..., Path]
) -> Path:
    """Two categories of MVTec AD and of VisA in their publishers' layouts, with few images."""
    root = tmp_path / "data"
    mvtec, visa = root / named_dataset("mvtec_ad").folder, root / named_dataset("visa").folder
    lines = []
    for index in range(N_EACH):
        name = f"{index:03d}.png"
        for category in ("bottle", "metal_nut"):
            folder = mvtec / category
            write_image(folder / "test" / "good" / name, seed=index)
            write_image(folder / "test" / "scratch" / name, has_defect=True, seed=index)
            write_mask(folder / "ground_truth" / "scratch" / f"{index:03d}_mask.png")
        for category in ("candle", "pcb1"):
            images, masks = f"{category}/Data/Images", f"{category}/Data/Masks/Anomaly"
            write_image(visa / images / "Normal" / name, seed=10 + index)
            write_image(visa / images / "Anomaly" / name, has_defect=True, seed=10 + index)
            write_mask(visa / masks / name)
            lines.append([category, "test", "normal", f"{images}/Normal/{name}", ""])
            lines.append(
                [category, "test", "anomaly", f"{images}/Anomaly/{name}", f"{masks}/{name}"]
            )
    (visa / "split_csv").mkdir()
    with (visa / "split_csv" / "1cls.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["object", "split", "label", "image", "mask"], *lines])
    return root


@pytest.fixture
def table(tiny_backbone: BackboneConfig) -> PublishedTable:
    """Two columns: AnomalyCLIP trained on one set for the other, and CLIP as it is."""
    trained = Recipe(
        name="tiny_prompts",
        method={"method": "anomaly_clip"},
        backbone=tiny_backbone,
        trained_on=("mvtec_ad",),
        instead={"mvtec_ad": ("visa",)},
    )
    plain = Recipe(name="tiny_clip", method={"method": "clip_zero_shot"}, backbone=tiny_backbone)
    return PublishedTable.model_validate(
        {
            "name": "tiny",
            "title": "a tiny table",
            "source": "made for a test",
            "metrics": ["image_AUROC", "pixel_AUROC"],
            "columns": [
                {"name": "quoted"},
                {"name": "AnomalyCLIP", "recipe": trained, "own": True},
                {"name": "CLIP", "recipe": plain, "own": True},
            ],
            "rows": [
                {"set": "mvtec_ad", "values": [[70, 80], [90, 91], [50, None]]},
                {"set": "visa", "values": [None, [80, 81], [60, 61]]},
                {"set": "visa", "category": "pcb1", "values": [None, [79, 78], None]},
            ],
            "means": [
                {"name": "mean", "over": ["mvtec_ad", "visa"], "values": [None, [85, 86], None]}
            ],
        }
    )


@contextmanager
def watch(label: str) -> Iterator[Callable[..., None]]:
    yield lambda done, total, note="": None


def plan_of(
    table: PublishedTable, data_root: Path, out: Path, *methods: str, **options: Any
) -> Plan:
    site = Site(data_root, out, {})
    return make_plan(table, select_columns(table, methods), site, **options)


def how_of(data_root: Path, **options: Any) -> HowToRun:
    settings: dict[str, Any] = {
        "data_root": data_root,
        "device": torch.device("cpu"),
        "seed": 0,
        "batch_size": 4,
        "command": "zsad reproduce tiny",
        "watch": watch,
        "warn": lambda _: None,
        "allow_other_counts": True,
        **options,
    }
    return HowToRun(**settings)


def made(plan: Plan, how: HowToRun) -> list[str]:
    """Run a plan; the labels of the steps that were open."""
    labels: list[str] = []
    run_plan(plan, how, on_step=lambda step: labels.append(step.label))
    return labels


@pytest.mark.soak
@pytest.mark.timeout(300)  # a whole process starts, on a machine that may be busy
def test_killed_in_a_training_the_same_call_goes_on_and_ends_with_the_same_numbers(
    table: PublishedTable, data_root: Path, tmp_path: Path
) -> None:
    path = tmp_path / "table.json"
    path.write_text(table.model_dump_json())
    out, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"

    child = subprocess.run(
        [sys.executable, CHILD, path, data_root, out, "AnomalyCLIP", "2"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    plan = plan_of(table, data_root, out, "AnomalyCLIP")
    labels = made(plan, how_of(data_root))
    whole = plan_of(table, data_root, undisturbed, "AnomalyCLIP")
    all_labels = made(whole, how_of(data_root))

    assert child.returncode == -9, child.stderr
    assert child.stdout.splitlines() == all_labels[:3]
    assert labels == all_labels[2:]  # the second training again, and what it had not come to
    assert compare(plan) == compare(whole)
    assert made(plan, how_of(data_root)) == []


def test_each_training_comes_right_before_its_tests(
    table: PublishedTable, data_root: Path, tmp_path: Path
) -> None:
    labels = [step.label for step in plan_of(table, data_root, tmp_path).steps]

    assert labels == [
        "train tiny_prompts on visa",
        "test tiny_prompts on mvtec_ad",
        "train tiny_prompts on mvtec_ad",
        "test tiny_prompts on visa",
        "test tiny_clip on mvtec_ad",
        "test tiny_clip on visa",
    ]


def result_of(step: MeasureStep, **means: float) -> None:
    """A result file as a step leaves it."""
    step.result.parent.mkdir(parents=True, exist_ok=True)
    content = {"mean": means, "categories": {"pcb1": {"image_AUROC": 0.5}}}
    step.result.write_text(json.dumps(content))


def found(compared: tuple[Compared, ...], row: str, metric: str) -> Compared:
    (one,) = (c for c in compared if (c.row, c.column, c.metric) == (row, "AnomalyCLIP", metric))
    return one


def test_comparison_gives_the_difference_in_points_and_a_dash_for_what_is_open(
    table: PublishedTable, data_root: Path, tmp_path: Path
) -> None:
    plan = plan_of(table, data_root, tmp_path)
    mvtec, visa = plan.test[0], plan.test[1]
    assert (mvtec.label, visa.label) == (
        "test tiny_prompts on mvtec_ad",
        "test tiny_prompts on visa",
    )

    result_of(mvtec, image_AUROC=0.925)
    half = compare(plan)
    result_of(visa, image_AUROC=0.795)
    whole = compare(plan)

    assert found(half, "mvtec_ad", "image_AUROC").difference == pytest.approx(2.5)
    assert found(half, "visa", "image_AUROC").ours is None
    assert found(half, "mean", "image_AUROC").ours is None
    assert found(whole, "visa/pcb1", "image_AUROC").difference == pytest.approx(-29)
    assert found(whole, "mean", "image_AUROC").ours == pytest.approx(86)
    assert found(whole, "mean", "pixel_AUROC").difference is None
    assert "| mvtec_ad | AnomalyCLIP | I-AUROC | 90.0 | 92.5 | +2.5 |" in to_markdown(whole, "tiny")


def test_damaged_result_is_named(table: PublishedTable, data_root: Path, tmp_path: Path) -> None:
    plan = plan_of(table, data_root, tmp_path)
    result_of(plan.test[0])
    plan.test[0].result.write_text('{"mean":')

    with pytest.raises(ResultError, match=r"mvtec_ad\.json is no result"):
        compare(plan)


def test_only_restricts_to_named_sets_and_what_they_need(
    table: PublishedTable, data_root: Path, tmp_path: Path
) -> None:
    plan = plan_of(table, data_root, tmp_path, only=["visa"])

    assert [step.detecting.sets for step in plan.train] == [("mvtec_ad",)]
    assert {one.row for one in compare(plan)} == {"visa", "visa/pcb1"}
    with pytest.raises(SelectionError, match="no set 'btad': choose mvtec_ad, visa"):
        plan_of(table, data_root, tmp_path, only=["btad"])


def test_column_without_recipe_cannot_be_chosen(table: PublishedTable) -> None:
    assert [c.name for c in select_columns(table, ["all"])] == ["AnomalyCLIP", "CLIP"]
    with pytest.raises(SelectionError, match="no way to make 'quoted' again; choose 'AnomalyCLIP'"):
        select_columns(table, ["quoted"])


def test_other_counts_are_refused_before_any_step_unless_allowed(
    table: PublishedTable, data_root: Path, tmp_path: Path
) -> None:
    plan = plan_of(table, data_root, tmp_path / "out")

    with pytest.raises(DataError, match="candle: found 3 normal"):
        made(plan, how_of(data_root, allow_other_counts=False))
    assert not (tmp_path / "out").exists()


def test_everything_missing_is_listed_once_with_place_and_size(tmp_path: Path) -> None:
    table = read_table("afr-clip-image")
    site = Site(tmp_path / "data", tmp_path / "out", {"": str(tmp_path / "clip.pt")})

    plan = make_plan(table, select_columns(table, ()), site)

    what = [missing.what for missing in plan.missing]
    assert what[0] == "weights of ViT-L-14-336-quickgelu (openai)"
    assert what[1] == "weights of ResNet-50"
    assert len(what) == len(set(what)) == 2 + len(table.sets)
    assert plan.missing[0].size_bytes == pytest.approx(0.856e9, rel=0.01)
    assert plan.missing[2].where == str(tmp_path / "data" / named_dataset("mvtec_ad").folder)
    assert all(missing.size_bytes > 0 and missing.how for missing in plan.missing)


def test_done_steps_need_nothing(table: PublishedTable, tmp_path: Path) -> None:
    plan = plan_of(table, tmp_path / "nowhere", tmp_path)
    for step in plan.test:
        result_of(step)
    for training in plan.train:
        training.folder.mkdir(parents=True)
        (training.folder / "card.json").write_text("{}")

    again = plan_of(table, tmp_path / "nowhere", tmp_path)

    assert len(plan.missing) == 2
    assert again.missing == ()


def test_trainings_differ_by_what_decides_them_and_not_by_where_files_are(
    data_root: Path, tmp_path: Path
) -> None:
    table = read_table("mfp-clip-window")
    columns = select_columns(table, ())

    def keys(cnn: Path, seed: int) -> list[str]:
        site = Site(data_root, tmp_path, {}, cnn)
        plan = make_plan(table, columns, site, seed=seed)
        return [step.detecting.key for step in plan.train]

    assert len(set(keys(tmp_path / "a.pt", 0))) == len(columns)
    assert keys(tmp_path / "a.pt", 0) == keys(tmp_path / "b.pt", 0)
    assert not set(keys(tmp_path / "a.pt", 0)) & set(keys(tmp_path / "a.pt", 1))


def test_medical_sets_are_tested_with_medical_options(tmp_path: Path) -> None:
    assert RECIPES["aa_clip"].medical == {"domain": "medical"}
    for recipe in RECIPES.values():
        recipe.config(tmp_path / "cnn.pt", **recipe.medical)  # they are the method's


def test_shots_are_drawn_for_each_label_and_category(data_root: Path) -> None:
    samples = named_dataset("visa").read(data_root, warn=lambda _: None, allow_other_counts=True)

    drawn = choose_shots(samples, 2, seed=1)

    groups = [(s.category, s.is_anomalous) for s in drawn]
    assert len(drawn) == 8
    assert all(groups.count(group) == 2 for group in groups)
    assert drawn == choose_shots(samples, 2, seed=1)
    assert len(choose_shots(samples, 64, seed=1)) == len(samples)


def test_command_lists_what_is_missing_and_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    weights = ["--pretrained", str(tmp_path / "clip.pt")]

    code = main(["reproduce", "mfp-clip", *where, *weights])

    said = capsys.readouterr().out
    assert code == 2
    assert "weights of ViT-L-14-336-quickgelu (openai)" in said
    assert "weights of ResNet-50" in said
    assert str(tmp_path / "data" / named_dataset("visa").folder) in said
    assert "hours at 50 TFLOP/s" in said
    assert not (tmp_path / "out").exists()


def test_command_lists_tables_and_names_an_unknown_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = main(["reproduce", "--list"])
    unknown = main(["reproduce", "table-9", "--data", str(tmp_path), "--out", str(tmp_path)])

    said = capsys.readouterr()
    assert (listed, unknown) == (0, 2)
    assert "mfp-clip" in said.out
    assert "no table is named 'table-9': choose aa-clip-image" in said.err


def test_device_that_is_not_there_is_refused_before_any_step(
    table: PublishedTable,
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("zsad.published.table.read_table", lambda _: table)
    place = ["--data", str(data_root), "--out", str(tmp_path / "out")]

    assert main(["reproduce", "tiny", *place, "--device", "abacus"]) == 2
    assert "--device abacus cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_command_makes_a_table_and_writes_the_comparison(
    table: PublishedTable,
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("zsad.published.table.read_table", lambda _: table)
    out = tmp_path / "ours.json"
    place = ["--data", str(data_root), "--out", str(tmp_path / "out"), "--method", "CLIP"]

    code = main(["reproduce", "tiny", *place, "--allow-other-counts", "--json", str(out)])

    said = capsys.readouterr()
    assert code == 0, said.err
    assert "[2/2] test tiny_clip on visa" in said.out
    values = json.loads(out.read_text())["values"]
    assert values[0].keys() == {"row", "method", "metric", "published", "ours", "difference"}
    assert values[0]["difference"] == pytest.approx(values[0]["ours"] - 50)
