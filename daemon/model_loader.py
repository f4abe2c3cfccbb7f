"""Loads models of the store in a thread of its own; they share the backbone that is loaded."""

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from daemon.config.line import Config
from daemon.errors import ModelError
from daemon.inspection.detector_slot import DetectorSlot
from daemon.inspection.loaded_model import LoadedModel
from daemon.inspection.shadow import Shadow
from daemon.training.model_store import ModelStore
from daemon.training.stored_model import open_stored


class ModelLoader:
    """For the main thread, which asks again until a model is there."""

    def __init__(
        self,
        store: ModelStore,
        *,
        slot: DetectorSlot,
        shadow: Shadow,
        beat: Callable[[], None],
    ) -> None:
        """`beat` is the heartbeat of the thread that inspects."""
        self._store = store
        self._slot = slot
        self._shadow = shadow
        self._beat = beat
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._loading: dict[str, Future[LoadedModel]] = {}

    def get(self, version: str, config: Config) -> LoadedModel | ModelError | None:
        """A model, verified and tried, or why there is none; None while it is being loaded.

        The same answer until the model is handed out or put away.
        """
        if version not in self._loading:
            self._loading[version] = self._thread.submit(self._load, version, config)
        loading = self._loading[version]
        if not loading.done():
            return None
        try:
            return loading.result()
        except ModelError as error:
            return error

    def hand_out(self, version: str) -> None:
        """Forget a model: somebody else keeps it now, or it could not be loaded."""
        self._loading.pop(version, None)

    def put_away_all_but(self, wanted: set[str | None]) -> None:
        """Forget and close the others."""
        for version in [name for name in self._loading if name not in wanted]:
            loading = self._loading.pop(version)
            if not loading.cancel():  # it was begun, and is done before what is submitted now
                self._thread.submit(_close_loaded, loading)

    def put_away(self, model: LoadedModel) -> None:
        """Close a model that nobody uses any more, without waiting for that."""
        self._thread.submit(model.close)

    def close(self) -> None:
        """Wait for what is being loaded."""
        self._thread.shutdown(cancel_futures=True)

    def _load(self, version: str, config: Config) -> LoadedModel:
        """In the thread."""
        running = self._slot.model
        backbone = running.predictor.detector.backbone
        return LoadedModel(
            open_stored(self._store, version, config.model.device, backbone=backbone),
            config.shared_categories,
            config.model.references_dir,
            max_batch=running.max_batch,
            on_batch=lambda: self._after_pass(version),
        )

    def _after_pass(self, version: str) -> None:
        """In the inspection thread: a pass of the model in force, or of the candidate."""
        if version == self._slot.version:
            self._beat()
        else:
            self._shadow.after_pass()


def _close_loaded(loading: Future[LoadedModel]) -> None:
    with contextlib.suppress(ModelError):
        loading.result().close()


def versions_of(model: LoadedModel, categories: Mapping[str, object]) -> dict[str, str]:
    """The version of a model's scores in each category, the bank included."""
    return {name: model.references.version_of(name) for name in categories}
