"""`zsad benchmark` on a tiny network: what it writes and what it refuses; no time is judged."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import PIL.Image
import pytest
import torch

from daemon.cli.main import main
from zsad.benchmark import Benchmark, Settings, Timed, method_names, run_benchmark, to_json
from zsad.benchmark_clock import Lap
from zsad.benchmark_plot import ratio_plot
from zsad.config.backbone import BackboneConfig
from zsad.cost import shape_of
from zsad.outline import outline_backbone, random_backbone

CPU = torch.device("cpu")
SHAPE = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 4, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
    "text_cfg": {"layers": 4, "width": 32, "heads": 2, "context_length": 77, "vocab_size": 49408},
}


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """Name of a network of 4 + 4 blocks on 4 x 4 patches."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": SHAPE}))
    return f"local-dir:{folder}"


def timed(*, method: str = "aa_clip", own: list[float], bare: list[float], **facts: float) -> Timed:
    values = {"image_flops": 3e9, "bare_flops": 2e9, "matrix_flops": 1e9, **facts}
    return Timed(
        method=method,
        batch=2,
        laps=tuple(Lap(seconds, seconds) for seconds in own),
        bare_laps=tuple(Lap(seconds, seconds) for seconds in bare),
        matrix_laps=(Lap(0.1, 0.1),),
        memory=None,
        **values,
    )


def test_json_holds_what_was_asked_for(tiny: str, tmp_path: Path) -> None:
    out, picture = tmp_path / "out" / "speed.json", tmp_path / "out" / "speed.png"
    words = ["benchmark", "--backbone", tiny, "--method", "aa_clip", "--batch", "2,1,2"]
    words += ["--repeat", "1", "--json", str(out), "--plot", str(picture)]

    assert main(words) == 0

    found = json.loads(out.read_text())
    measured = [(row["method"], row["batch"]) for row in found["rows"]]
    assert measured == [("aa_clip", 1), ("aa_clip", 2)]
    assert found["left_out"] == {}
    assert found["threads"] == torch.get_num_threads()
    assert found["versions"].keys() == {"zsad", "torch", "open_clip_torch", "python"}
    assert found["backbone"]["image_size"] == 32
    assert found["date"].endswith("+00:00")
    for row in found["rows"]:
        numbers = [value for name, value in row.items() if name not in ("method", "ratios")]
        assert all(number is None or number >= 0 for number in numbers)
        assert row["ratios"]["wall_median"] == row["ratio"] > 0
        assert row["analytic_ratio"] >= 1
    with PIL.Image.open(picture) as image:
        assert image.format == "PNG"


def test_every_method_is_measured(tiny: str) -> None:
    backbone = random_backbone(BackboneConfig(name=tiny))
    settings = Settings((1,), 1, "fp32", CPU, matrix_side=8)

    found = run_benchmark(backbone, method_names(), settings, lambda *_: None)

    assert len(method_names()) == 14
    assert {row.method for row in found.rows} == set(method_names())
    assert not found.left_out


def test_sixteen_bits_are_measured_too(tiny: str) -> None:
    backbone = random_backbone(BackboneConfig(name=tiny))
    settings = Settings((1,), 1, "bf16", CPU, matrix_side=8)

    found = run_benchmark(backbone, ["aa_clip"], settings, lambda *_: None)

    assert to_json(found, backbone, settings, datetime.now(UTC))["precision"] == "bf16"
    assert len(found.rows) == 1


def test_method_that_does_not_fit_is_left_out(tiny: str) -> None:
    backbone = random_backbone(BackboneConfig(name=tiny, image_size=16))  # 2 x 2 patches
    settings = Settings((1,), 1, "fp32", CPU, matrix_side=8)
    done: list[int] = []

    found = run_benchmark(
        backbone, ["winclip", "clip_zero_shot"], settings, lambda n, *_: done.append(n)
    )

    assert "window_sizes" in found.left_out["winclip"]
    assert [row.method for row in found.rows] == ["clip_zero_shot"]
    assert done[-1] == 2


def test_ratio_is_of_medians_and_rates_of_needed_operations() -> None:
    row = timed(own=[3.0, 9.0, 4.0], bare=[2.0, 1.0, 8.0])

    assert row.ratio == 2.0
    assert row.image_s == 2.0
    assert row.analytic_ratio == 1.5
    assert row.flops_per_s == 1.5e9
    assert row.matrix_flops_per_s == 1e10


def test_picture_shows_every_method() -> None:
    few = Benchmark((timed(own=[1.0], bare=[1.0]),), {})
    more = Benchmark((*few.rows, timed(method="winclip", own=[9.0], bare=[1.0])), {})

    assert len(ratio_plot(more, "two")) > len(ratio_plot(few, "two"))


MEASURE = """
import torch
from zsad.benchmark_clock import measure_memory

found = measure_memory(lambda: torch.ones(64, 1024, 1024, dtype=torch.uint8), torch.device("cpu"))
print(found is None or 60 << 20 < found.added_bytes < found.peak_bytes)
"""


def test_memory_of_a_call_is_what_it_holds_at_once() -> None:
    """In a process of its own, whose peak nothing else has raised."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout == "True\n"


def test_compact_backbone_costs_what_its_cnn_costs() -> None:
    shape = shape_of(outline_backbone(BackboneConfig(name="compact-v1")))

    assert shape.embedding == pytest.approx(2.58e9, rel=0.01)
    assert shape.embedding < shape.visual_pass < 1.5 * shape.embedding


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method", "clip"], "there is no method 'clip'"),
        (["--backbone", "ViT-X-99"], "open_clip knows no model ViT-X-99"),
        (["--backbone", "ViT-B-16-SigLIP"], "ViT-B-16-SigLIP is no plain CLIP"),
        (["--image-size", "8"], "--image-size 8: Input should be greater than or equal to 16"),
        (["--image-size", "100"], "not a multiple of the patch side"),
        (["--precision", "fp16", "--device", "cpu"], "take bf16 or fp32"),
        (["--json", "/proc/none/a.json"], "cannot write"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "0", "1,,2", "one"])
def test_batches_are_whole_numbers(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", "--batch", text])

    assert stopped.value.code == 2
    assert "is not a whole number from 1" in capsys.readouterr().err
