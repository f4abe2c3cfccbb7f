from collections.abc import Callable

from sqlalchemy import Engine

from daemon.core import FrameLoss, Inspection, LossReason
from daemon.storage import repository
from daemon.storage.database import write_transaction
from daemon.storage.known_epochs import last_numbers


def test_the_last_number_of_every_start_is_found_in_rows_and_losses(
    line_engine: Engine,
    make_inspection: Callable[..., Inspection],
    make_loss: Callable[..., FrameLoss],
) -> None:
    made = [
        *(make_inspection(seq, epoch=epoch) for epoch, seq in ((3, 0), (3, 9), (7, 4), (8, 1))),
        make_inspection(5, camera="cam2", epoch=3),
        make_loss(LossReason.GAP, first=5, last=20),  # of cam1, epoch 7
    ]
    with write_transaction(line_engine) as connection:
        repository.add_results(connection, "line1", made)

    with line_engine.connect() as connection:
        found = last_numbers(connection, ["cam1", "cam2", "cam9"])

    assert found == {("cam1", 3): 9, ("cam1", 7): 20, ("cam1", 8): 1, ("cam2", 3): 5}
