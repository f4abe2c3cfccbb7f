import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.cli import operate
from daemon.config.frames import FramesConfig
from daemon.config_file import load_config
from daemon.errors import ConfigError

WriteConfig = Callable[..., Path]
EXAMPLE = Path(__file__).parents[2] / "config" / "daemon.example.yaml"


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    operate.add_commands(parser.add_subparsers())
    args = parser.parse_args(arguments)
    return int(args.run(args))


def test_a_good_file_says_what_will_run(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(("sqlite:///results.db", "postgresql://zsad:s3cret@db/zsad"))

    assert run("check-config", str(path)) == 0

    printed = capsys.readouterr().out
    for part in (
        f"{path} is valid",
        "tcp://127.0.0.1:5555 (sub, connect)",
        "fabric: woven fabric; at most 5.0% of OK parts to review, 1.0% NG",
        "early 06:00-18:00",
        "late 18:00-06:00",
        "postgresql://zsad:***@db/zsad",
        "embedded default on auto",
    ):
        assert part in printed
    assert "s3cret" not in printed


def test_a_bad_file_is_refused(write_config: WriteConfig) -> None:
    with pytest.raises(ConfigError, match=r"daemon\.yaml:1:1: line: 'L 1' is not a name"):
        run("check-config", str(write_config(("L1", "L 1"))))


def test_json_lists_every_error(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(("L1", "L 1"), ("Europe/Berlin", "Mars"))

    assert run("check-config", str(path), "--json") == 2

    printed = json.loads(capsys.readouterr().out)
    assert printed["ok"] is False
    assert [(e["line"], e["key"]) for e in printed["errors"]] == [(1, "line"), (2, "timezone")]


def test_json_of_a_good_file_hides_the_password(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(("sqlite:///results.db", "postgresql://zsad:s3cret@db/zsad"))

    assert run("check-config", str(path), "--json") == 0

    printed = json.loads(capsys.readouterr().out)
    assert printed["config"]["storage"]["url"] == "postgresql://zsad:***@db/zsad"


def test_a_checkpoint_folder_without_a_model_is_refused(write_config: WriteConfig) -> None:
    path = write_config(("shifts:", "model: {checkpoint: models/v1}\nshifts:"))

    with pytest.raises(ConfigError, match=r"no card\.json in .*models/v1"):
        run("check-config", str(path))


def test_the_example_is_valid() -> None:
    config = load_config(EXAMPLE)

    assert (len(config.cameras), len(config.categories), len(config.sources)) == (2, 2, 2)


EXAMPLE_ALTERNATIVES = [
    ("PostgreSQL", "  url: sqlite:", "  # url: postgresql:"),
    ("pull", None, "  # - endpoint: tcp://0.0.0.0:5556"),
    ("pull", None, "  #   socket: pull"),
    ("pull", None, "  #   mode: bind"),
    ("router", None, "  # - endpoint: tcp://0.0.0.0:5557"),
    ("router", None, "  #   socket: router"),
    ("router", None, "  #   credit: 32"),
    ("router", None, "  #   max_publishers: 16"),
    ("stale", None, "    # stale_after_s: 10"),
    ("imagezmq", None, "  # - endpoint: tcp://192.168.10.22:5555"),
    ("imagezmq", None, "  #   camera: cam2"),
    ("model", None, "  # checkpoint: "),
    ("model", None, "  # threads: 4"),
    ("model", None, "  # commissioning: true"),
    ("learn", None, "    # learn_frames: 200"),
    ("frames", None, "# frames:"),
    ("frames", None, "#   dir: /var/lib/zsad/frames"),
    ("frames", None, "#   keep: [NG, REVIEW]"),
    ("frames", None, "#   keep_one_ok_of: 50"),
    ("frames", None, "#   days: 30"),
    ("frames", None, "#   max_bytes: 21_474_836_480"),
    *(
        ("recipe", None, f"    # {key}")
        for key in (
            "confidence: 0.95",
            "review_as: REVIEW",
            "roi:",
            "  include: ",
            "  ignore: ",
            "sanity:",
            "  min_contrast: 0.5",
            "  min_brightness: 30",
            "  max_brightness: 230",
            "  min_sharpness: 50",
            "  frozen_after: 5",
            "  width_px: 2448",
            "  height_px: 2048",
        )
    ),
]


def test_the_example_is_valid_with_everything_commented_in(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    for _, replaced, commented in EXAMPLE_ALTERNATIVES:
        assert commented in text
        if replaced is not None:
            text = re.sub(rf"^{re.escape(replaced)}.*\n", "", text, flags=re.M)
        text = text.replace(commented, commented.replace("# ", "", 1).replace("#  ", " ", 1))
    path = tmp_path / "daemon.yaml"
    path.write_text(text)

    config = load_config(path)

    assert config.storage.url == "postgresql://zsad:${ZSAD_DB_PASSWORD}@db.example.com:5432/zsad"
    assert [source.socket for source in config.sources] == ["sub", "sub", "pull", "router", "sub"]
    assert config.sources[2].mode == "bind"
    assert config.sources[4].camera == "cam2"
    assert config.model.threads == 4
    assert config.frames == FramesConfig(dir=Path("/var/lib/zsad/frames"))
    assert config.model.checkpoint == Path("/var/lib/zsad/models/aa_clip/v1")
    assert config.categories["fabric_global"].learn_frames == 200
    recipe = config.categories["fabric_local"]
    assert (recipe.confidence, recipe.sanity.frozen_after) == (0.95, 5)
    assert (len(recipe.roi.include), len(recipe.roi.ignore)) == (1, 1)


def test_commissioning_is_said_plainly(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(("shifts:", "model: {commissioning: true}\nshifts:"))

    assert run("check-config", str(path)) == 0

    assert "none (commissioning): every verdict is LEARNING" in capsys.readouterr().out
