import pytest

from daemon.demo_images import PARTS_MEANWHILE, REFERENCES, demo_cameras
from daemon.errors import ConfigError


def test_no_image_is_shown_twice_and_every_camera_learns_from_good_parts_only() -> None:
    local, of_other_weave = demo_cameras(learn_frames=60, judged_frames=100)

    for camera, n_learnt in ((local, 60), (of_other_weave, 60 + REFERENCES + PARTS_MEANWHILE)):
        assert not any(frame.is_anomalous for frame in camera.frames[:n_learnt])
        assert sum(frame.is_anomalous for frame in camera.frames[n_learnt:]) == 50
        assert len(camera.frames) == n_learnt + 100
    shown = [frame.path for frame in (*local.frames, *of_other_weave.frames)]
    assert len(set(shown)) == len(shown)
    assert (local.references, of_other_weave.references) == (0, REFERENCES)


def test_more_frames_than_there_are_images_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="take fewer"):
        demo_cameras(learn_frames=60, judged_frames=2000)
