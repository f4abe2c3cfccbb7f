"""Model rows and counts of live frames, on both databases."""

from collections import Counter
from datetime import timedelta

import pytest
from night_frames import BOTH, LINE, NOW, inspection, register
from sqlalchemy import Engine

from daemon.core import FrameId, ShadowScore, Verdict
from daemon.errors import StorageError
from daemon.storage import live_counts, models, repository
from daemon.storage.database import write_transaction

A, B, C = "coop-aaaaaaaaaaaa", "coop-bbbbbbbbbbbb", "coop-cccccccccccc"


def promote(engine: Engine, version: str, instead_of: str, minute: int) -> None:
    with write_transaction(engine) as connection:
        models.promote(
            connection,
            LINE,
            version,
            instead_of=instead_of,
            author="ana",
            reason="better",
            now=NOW + timedelta(minutes=minute),
        )


@BOTH
def test_one_transaction_tells_what_is_active_and_who_did_it(line_engine: Engine) -> None:
    with write_transaction(line_engine) as connection:
        models.propose(connection, LINE, B, 500, "night", "better by 0.1", NOW)
        models.propose(connection, LINE, C, 500, "night", "better by 0.2", NOW)
    promote(line_engine, C, A, 1)

    with line_engine.connect() as connection:
        active = models.active(connection, LINE)
        assert active == models.ActiveModel(C, A, NOW + timedelta(minutes=1))
        assert models.candidate(connection, LINE) is None
        assert models.active(connection, "another line") is None
        trail = [(change.kind, change.version) for change in models.changes(connection, LINE, NOW)]
    assert trail == [("proposed", B), ("rejected", B), ("proposed", C), ("promoted", C)]
    with write_transaction(line_engine) as connection, pytest.raises(StorageError, match="active"):
        models.propose(connection, LINE, C, 500, "night", "again", NOW)


@BOTH
def test_a_model_that_was_rolled_back_is_no_way_back_later(line_engine: Engine) -> None:
    promote(line_engine, B, A, 1)
    with write_transaction(line_engine) as connection:
        models.roll_back(connection, LINE, B, "watch", "NG 6 %", NOW + timedelta(minutes=2))
    promote(line_engine, C, A, 3)
    with write_transaction(line_engine) as connection:
        back = models.roll_back(connection, LINE, C, "ana", "no", NOW + timedelta(minutes=4))

    assert (back.version, back.previous) == (A, A)
    promote(line_engine, B, A, 5)
    with line_engine.connect() as connection:
        assert models.active(connection, LINE).version == B, "a person may"


@BOTH
def test_two_who_promote_at_once_do_not_overwrite_each_other(line_engine: Engine) -> None:
    promote(line_engine, B, A, 1)

    with pytest.raises(StorageError, match="meanwhile"):
        promote(line_engine, C, A, 2)


@BOTH
def test_shadow_scores_are_stored_once_and_counted_side_by_side(line_engine: Engine) -> None:
    def score(seq: int, verdict: Verdict, said: Verdict, version: str = B) -> ShadowScore:
        value = None if said is Verdict.ERROR else 0.5
        frame_id = FrameId("cam1", 7, seq)
        return ShadowScore(frame_id, "fabric", version, NOW, verdict, 0.4, said, value)

    ok, ng, error = Verdict.OK, Verdict.NG, Verdict.ERROR
    scores = [score(1, ok, ok), score(2, ok, ng), score(3, ng, ng), score(4, ok, error)]
    with write_transaction(line_engine) as connection:
        repository.add_results(connection, LINE, [*scores, scores[0], score(1, ok, ng, C)])
        repository.add_results(connection, LINE, scores)

    with line_engine.connect() as connection:
        active, candidate = live_counts.shadow_counts(connection, LINE, B, NOW)
        later = live_counts.shadow_counts(connection, LINE, B, NOW + timedelta(seconds=1))
    assert active == {"fabric": Counter({ok: 3, ng: 1})}
    assert candidate == {"fabric": Counter({ok: 1, ng: 2, error: 1})}
    assert later == ({}, {})


@BOTH
def test_verdicts_are_counted_by_the_weights_with_any_bank_of_references(
    line_engine: Engine,
) -> None:
    register(line_engine)
    made = [
        inspection(1, verdict=Verdict.NG),
        inspection(2, verdict=Verdict.OK, model_version="m-1+refs-0123"),
        inspection(3, verdict=Verdict.LEARNING),
        inspection(4, verdict=Verdict.OK, received_utc=NOW - timedelta(hours=2)),
    ]
    with write_transaction(line_engine) as connection:
        repository.add_results(connection, LINE, made)

    def counted(newest: int, version: str = "m-1") -> object:
        with line_engine.connect() as connection:
            return live_counts.verdict_counts(
                connection,
                LINE,
                version,
                since=NOW - timedelta(hours=1),
                until=NOW + timedelta(hours=1),
                newest=newest,
            )

    assert counted(100) == {"fabric": Counter({Verdict.NG: 1, Verdict.OK: 1})}
    assert counted(1)["fabric"].total() == 1
    assert counted(100, "m-") == {}
