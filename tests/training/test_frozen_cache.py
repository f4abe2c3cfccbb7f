"""The cache of frozen features: the same rows as computed, never beyond its limit."""

from pathlib import Path

import pytest
import torch

from zsad.frozen_cache import FrozenCache

ROWS = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
ROW_BYTES = (3 * 4 + 2) * 4


class _Source:
    """Counts what it computes: two tensors of a row."""

    def __init__(self) -> None:
        self.computed: list[int] = []

    def of(self, wanted: list[int | None]):
        def compute(at: int) -> tuple[torch.Tensor, ...]:
            row = wanted[at] if wanted[at] is not None else 0
            self.computed.append(row)
            return ROWS[row : row + 1], ROWS[row : row + 1, 0, :2]

        return compute


def _fetch(cache: FrozenCache, source: _Source, rows: list[int | None]) -> tuple[torch.Tensor, ...]:
    return cache.fetch(rows, source.of(rows))


def test_a_kept_row_equals_the_computed_one_and_is_not_computed_again(tmp_path: Path) -> None:
    cache, source = FrozenCache(tmp_path / "c", 6, 10**6, torch.float32), _Source()

    first = _fetch(cache, source, [4, 1])
    again = _fetch(cache, source, [1, 5, 4])

    assert source.computed == [4, 1, 5]
    assert torch.equal(first[0], ROWS[[4, 1]])
    assert torch.equal(again[0], ROWS[[1, 5, 4]])
    assert torch.equal(again[1], ROWS[[1, 5, 4], 0, :2])


def test_a_picture_without_a_row_is_computed_every_time(tmp_path: Path) -> None:
    cache, source = FrozenCache(tmp_path / "c", 6, 10**6, torch.float32), _Source()

    for _ in range(2):
        _fetch(cache, source, [None, 2])

    assert source.computed == [0, 2, 0]


@pytest.mark.parametrize(("limit", "kept"), [(2 * ROW_BYTES + 3, 2), (ROW_BYTES - 1, 0)])
def test_rows_beyond_the_limit_are_computed_every_time_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, limit: int, kept: int
) -> None:
    path, source = tmp_path / "c", _Source()
    cache = FrozenCache(path, 6, limit, torch.float32)

    for _ in range(2):
        assert torch.equal(_fetch(cache, source, [0, 1, 2, 3])[0], ROWS[:4])

    assert source.computed == [0, 1, 2, 3, *range(kept, 4)]
    assert not path.exists() or path.stat().st_size <= limit
    assert "not all frozen features fit" in caplog.text


def test_half_precision_rounds_fresh_rows_as_it_rounds_kept_ones(tmp_path: Path) -> None:
    cache, source = FrozenCache(tmp_path / "c", 6, 10**6, torch.float16), _Source()

    fresh = _fetch(cache, source, [3])[0]

    assert torch.equal(fresh, ROWS[3:4].half().float())
    assert torch.equal(fresh, _fetch(cache, source, [3])[0])


def test_a_closed_cache_leaves_no_file(tmp_path: Path) -> None:
    cache = FrozenCache(tmp_path / "c", 6, 10**6, torch.float32)
    _fetch(cache, _Source(), [0])

    cache.close()

    assert list(tmp_path.iterdir()) == []
