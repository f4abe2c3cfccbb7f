import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from daemon.core import FrameLoss, Inspection, LossReason, Verdict
from daemon.verdict_message import message_of

NOW = datetime(2026, 1, 31, 6, tzinfo=UTC)


def test_an_inspection_becomes_one_json_object(make_inspection: Callable[..., Inspection]) -> None:
    message = message_of("l1", make_inspection(3))

    assert message is not None
    said = json.loads(message.to_json())
    assert (said["v"], said["camera"], said["seq"], said["verdict"]) == (1, "cam1", 3, "NG")
    assert said["captured_utc"] == "2026-01-31T06:00:00+00:00"
    assert said["regions"] == [
        {"x_px": 1, "y_px": 2, "width_px": 3, "height_px": 4, "area_px": 10, "peak": 0.9}
    ]


def test_a_lost_frame_is_an_error_and_never_ok() -> None:
    loss = FrameLoss(LossReason.QUEUE_FULL, NOW, "64 waited", "cam1", None, 7, 3, 3)

    message = message_of("l1", loss)

    assert message is not None
    assert (message.verdict, message.reason, message.seq) == (Verdict.ERROR, "queue_full", 3)


@pytest.mark.parametrize(
    "loss",
    [
        FrameLoss(LossReason.GAP, NOW, "missing", "cam1", None, 7, 3, 5),
        FrameLoss(LossReason.DUPLICATE, NOW, "again", "cam1", None, 7, 3, 3),
        FrameLoss(LossReason.BAD_MESSAGE, NOW, "not JSON"),
    ],
)
def test_a_loss_that_is_no_single_new_frame_says_nothing(loss: FrameLoss) -> None:
    assert message_of("l1", loss) is None
