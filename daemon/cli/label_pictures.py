"""Labels in force with an image of their frame: the whole one if it was kept, else a thumbnail."""

from collections.abc import Iterator

from sqlalchemy import Connection

from daemon.config.line import Config
from daemon.core import ImageFile
from daemon.errors import StorageError
from daemon.labels.found import LabelFound, Problem
from daemon.labels.picture import LabelledPicture
from daemon.report.explanation import pictures
from daemon.storage import frame_files, frame_folder
from daemon.storage.labels import Labelled, frame_name, labels_in_force


class LabelledPictures:
    """Labels in force with an image of their frame, one after the other.

    Attributes:
        whole, thumbnails: How many images of each kind there were so far.
    """

    def __init__(self, connection: Connection, config: Config, on_problem: Problem) -> None:
        self.whole = 0
        self.thumbnails = 0
        self._connection = connection
        self._line = config.line
        self._frames_dir = None if config.frames is None else config.frames.dir
        self._on_problem = on_problem

    def __iter__(self) -> Iterator[LabelledPicture]:
        for row in labels_in_force(self._connection, self._line):
            picture = self._picture(row)
            if picture is None:
                self._on_problem(
                    f"inspection {row.label.inspection_id}: the frame was never decoded"
                )
            else:
                yield picture

    def _picture(self, row: Labelled) -> LabelledPicture | None:
        if row.width_px is None or row.height_px is None:
            return None
        label = row.label
        frame = self._frame(row)
        stored = pictures(self._connection, label.inspection_id) if frame is None else None
        self.whole += frame is not None
        self.thumbnails += stored is not None
        return LabelledPicture(
            LabelFound(frame_name(row.frame_id), label.verdict, label.defect, label.mask_png),
            row.category,
            row.width_px,
            row.height_px,
            None if stored is None else stored.photo_jpeg,
            frame,
        )

    def _frame(self, row: Labelled) -> ImageFile | None:
        """The whole frame; None where it was not kept or is damaged, which is told."""
        file = frame_files.frame_of(self._connection, row.frame_id)
        if file is None or self._frames_dir is None:
            return None
        try:
            content = frame_folder.load(self._frames_dir, file.path, file.sha256)
        except StorageError as error:
            self._on_problem(f"inspection {row.label.inspection_id}: {error}")
            return None
        return ImageFile("png" if file.path.endswith(".png") else "jpg", content)
