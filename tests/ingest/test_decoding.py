"""How many decoders a machine gets."""

import pytest

from daemon.ingest.decoding import decode_threads


@pytest.mark.parametrize(("cores", "threads"), [(1, 2), (2, 2), (4, 2), (8, 4), (16, 8), (128, 8)])
def test_the_pool_grows_with_the_cores_and_its_memory_is_bounded(cores: int, threads: int) -> None:
    assert decode_threads(cores) == threads
