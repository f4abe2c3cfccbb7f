"""`zsad train nightly`: what it refuses. That it runs is shown with the schedule."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from night_line import NightLine

from daemon.cli.main import main


@pytest.fixture
def settings(tmp_path: Path, migrated_file: Path) -> Callable[..., Path]:
    """The configuration of a line, with other settings of `training`."""

    def made(training: dict[str, object] | None) -> Path:
        line = NightLine(tmp_path / "line", {"grain": "grain"}, database=migrated_file)
        line.close()
        facts = yaml.safe_load(line.file.read_text(encoding="utf-8"))
        facts["training"] = None if training is None else {**facts["training"], **training}
        if training is None:
            del facts["training"]
        line.file.write_text(yaml.safe_dump(facts), encoding="utf-8")
        return line.file

    return made


def test_a_line_that_does_not_learn_says_what_is_missing(
    settings: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["train", "nightly", "--config", str(settings(None))])

    assert code == 2
    assert "no `training:` section" in capsys.readouterr().err


def test_outside_its_window_it_says_when_it_may_run(
    settings: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    begin = datetime.now(UTC) + timedelta(hours=10)
    times = {
        "window_start": f"{begin:%H:%M}",
        "window_end": f"{begin + timedelta(hours=1):%H:%M}",
    }

    code = main(["train", "nightly", "--config", str(settings(times))])

    assert code == 2
    assert "wait, or use --now" in capsys.readouterr().err


def test_train_alone_is_still_the_other_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--config", "x"])

    assert "--method" in capsys.readouterr().err
