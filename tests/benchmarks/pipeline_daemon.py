"""The real daemon as a process that also writes down every single time that it measures.

    python tests/benchmarks/pipeline_daemon.py daemon.yaml times.json

For `pipeline.py`: the status has percentiles since the start, by buckets; here they are exact, and
of any part of the run.
"""

import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from daemon import line_parts
from daemon.app import run_daemon
from daemon.config_file import read_config
from daemon.core import Inspection, Stage
from daemon.health import Health
from daemon.log import configure_logging

VERDICT = "verdict"


class RecordingHealth(Health):
    """Health that keeps (monotonic second, seconds) of every stage and of every verdict."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.seconds: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        recording.append(self)

    def observe_stage(self, stage: Stage, seconds: float) -> None:
        super().observe_stage(stage, seconds)
        self.seconds[stage].append((time.monotonic(), seconds))

    def count_inspection(self, inspection: Inspection) -> None:
        super().count_inspection(inspection)
        self.seconds[VERDICT].append((time.monotonic(), inspection.frame_to_verdict_s))


recording: list[RecordingHealth] = []


def record_preprocessing() -> None:
    """A part of `infer` that the daemon does not measure by itself; loads torch."""
    from zsad.predictor import Predictor

    prepared = Predictor._prepared

    def measured(*args: Any) -> Any:
        began_at = time.monotonic()
        try:
            return prepared(*args)
        finally:
            now = time.monotonic()
            if recording:
                recording[0].seconds["preprocess"].append((now, now - began_at))

    Predictor._prepared = measured  # type: ignore[method-assign]


def main(config: Path, times: Path) -> int:
    """Run the daemon until SIGTERM; its exit code."""
    line_parts.Health = RecordingHealth  # type: ignore[misc]
    file = read_config(config)
    if not file.config.model.commissioning:
        record_preprocessing()
    configure_logging(file.config.log)
    code = run_daemon(file)
    times.write_text(json.dumps(recording[0].seconds), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
