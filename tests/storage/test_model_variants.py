"""A model with a reference bank is a version of its own, registered with what it is made of."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, text

from daemon.core import Calibration, with_references
from daemon.errors import StorageError
from daemon.storage import repository
from daemon.storage.database import write_transaction

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def calibration(model_version: str) -> Calibration:
    return Calibration("mesh", model_version, 0.4, 0.6, 0.5, 100, 0.05, 0.01, True, "test", NOW)


def test_a_variant_is_registered_with_its_first_result_and_only_once(engine: Engine) -> None:
    variant = with_references("m1", "ab12")
    with write_transaction(engine) as connection:
        repository.ensure_model_version(
            connection, name="m1", method="aa_clip", backbone="b", card_json="{}", now=NOW
        )
        repository.add_calibration(connection, calibration(variant))
        repository.add_calibration(connection, calibration(variant))

    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT name, method, backbone FROM model_version ORDER BY id")
        ).all()
        current = repository.current_calibrations(connection, variant)
        of_model = repository.current_calibrations(connection, "m1")
    assert [tuple(row) for row in rows] == [("m1", "aa_clip", "b"), (variant, "aa_clip", "b")]
    assert [made.model_version for made in current] == [variant]
    assert list(of_model) == []


@pytest.mark.parametrize("version", ["m2", "m2+refs-ab12", "+refs-ab12"])
def test_a_version_that_never_ran_here_is_refused(engine: Engine, version: str) -> None:
    with (
        pytest.raises(StorageError, match="not registered"),
        write_transaction(engine) as connection,
    ):
        repository.add_calibration(connection, calibration(version))
