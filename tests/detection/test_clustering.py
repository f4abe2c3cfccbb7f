import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zsad.clustering import cluster_means, kmeans_labels


def blobs(sets: int = 2) -> torch.Tensor:
    """[sets, 12, 3]: three far groups of four points."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0, 0], [50, 0, 0], [0, 50, 0]]).repeat_interleave(4, dim=0)
    return centres + torch.randn(sets, 12, 3, generator=generator)


def test_far_groups_are_found() -> None:
    labels = kmeans_labels(blobs(), 3, seed=0)

    for row in labels.reshape(2, 3, 4):
        assert all(len(set(group.tolist())) == 1 for group in row)
        assert len({int(group[0]) for group in row}) == 3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), clusters=st.integers(1, 30))
def test_labels_of_a_set_do_not_depend_on_its_batch_mates(seed: int, clusters: int) -> None:
    points = blobs(3)

    together = kmeans_labels(points, clusters, seed=seed)

    for row in range(3):
        alone = kmeans_labels(points[row : row + 1], clusters, seed=seed)
        assert torch.equal(together[row], alone[0])
    assert 0 <= together.min() <= together.max() < min(clusters, 12)


def test_equal_points_share_a_cluster() -> None:
    labels = kmeans_labels(torch.ones(1, 6, 2), 3, seed=1)

    assert len(set(labels[0].tolist())) == 1


def test_an_empty_cluster_has_no_members_and_mean_zero() -> None:
    points = torch.tensor([[[1.0], [3.0], [8.0]]])

    means, filled = cluster_means(points, torch.tensor([[0, 0, 2]]), 3)

    assert means[0, :, 0].tolist() == [2.0, 0.0, 8.0]
    assert filled[0].tolist() == [True, False, True]


@pytest.mark.parametrize("seed", [0, 7])
def test_same_seed_gives_the_same_labels(seed: int) -> None:
    points = torch.randn(1, 40, 5, generator=torch.Generator().manual_seed(3))

    assert torch.equal(kmeans_labels(points, 6, seed=seed), kmeans_labels(points, 6, seed=seed))
