"""`zsad explain`: score, thresholds and their origin, and the line of the configuration."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import Engine

from daemon.core import Calibration, Inspection, LossReason, Verdict
from daemon.report.explanation import explain, pictures
from daemon.storage import config_history, repository
from daemon.storage.database import write_transaction

MakeInspection = Callable[..., Inspection]
TEXT = """\
line: line1
categories:
  fabric:
    class_name: woven fabric
    ng_rate: 0.02
    roi:
      ignore:
        - [[0, 0], [0.5, 0], [0.5, 1]]
    sanity: {max_brightness: 200}
"""


def store(engine: Engine, calibration: Calibration, *inspections: Inspection) -> list[int]:
    version = config_history.ConfigVersion(
        calibration.created_utc - timedelta(hours=1), "a1b2", "/etc/zsad/daemon.yaml", TEXT, {}
    )
    later = replace(
        version,
        applied_utc=calibration.created_utc + timedelta(seconds=1),
        text=TEXT.replace("0.02", "0.03"),
        sha256="c3d4",
    )
    with write_transaction(engine) as connection:
        config_history.record(connection, "line1", version)
        config_history.record(connection, "line1", later)
        repository.add_calibration(connection, calibration)
        repository.add_results(connection, "line1", inspections)
    return list(range(1, len(inspections) + 1))


def test_an_ng_frame_is_explained_down_to_the_line_of_its_rate(
    line_engine: Engine, make_inspection: MakeInspection, calibration: Calibration
) -> None:
    decided_utc = calibration.created_utc + timedelta(seconds=2)
    store(line_engine, calibration, make_inspection(0, decided_utc=decided_utc))

    with line_engine.connect() as connection:
        found = explain(connection, 1)
        images = pictures(connection, 1)

    assert found is not None
    assert (found.verdict, found.pred_score, found.ng_threshold) == (Verdict.NG, 0.75, 0.6)
    assert found.calibration == calibration
    assert found.config is not None
    assert found.config.sha256 == "c3d4", "in force for the verdict"
    (setting,) = found.decided_by
    assert str(setting) == "categories.fabric.ng_rate: 0.02 (/etc/zsad/daemon.yaml:5)", (
        "as it stood when the thresholds were made"
    )
    assert found.policy is not None
    assert len(found.policy.roi.ignore) == 1
    assert [region.area_px for region in found.regions] == [10]
    assert images is not None
    assert images.map_png == b"map"


def test_a_default_and_a_refusal_name_their_key(
    line_engine: Engine, make_inspection: MakeInspection, calibration: Calibration
) -> None:
    ok = make_inspection(0, verdict=Verdict.OK, pred_score=0.1)
    bright = make_inspection(
        1,
        verdict=Verdict.ERROR,
        error_reason=LossReason.TOO_BRIGHT,
        error_detail="brightness 250",
        pred_score=None,
        map_peak=None,
        calibration=None,
        regions=(),
        thumbnails=None,
    )
    store(line_engine, calibration, ok, bright)

    with line_engine.connect() as connection:
        explained = [explain(connection, inspection_id) for inspection_id in (1, 2)]
        no_picture = pictures(connection, 2)

    settings = [str(found.decided_by[0]) for found in explained if found is not None]
    assert settings == [
        "categories.fabric.review_rate: 0.05 (/etc/zsad/daemon.yaml, not set: the default)",
        "categories.fabric.sanity.max_brightness: 200 (/etc/zsad/daemon.yaml:9)",
    ]
    assert no_picture is None


def test_a_verdict_from_before_the_history_is_explained_without_a_setting(
    line_engine: Engine, make_inspection: MakeInspection
) -> None:
    with write_transaction(line_engine) as connection:
        repository.add_results(connection, "line1", [make_inspection(0)])

    with line_engine.connect() as connection:
        found = explain(connection, 1)
        missing = explain(connection, 99)

    assert found is not None
    assert (found.config, found.calibration, found.decided_by) == (None, None, ())
    assert missing is None
