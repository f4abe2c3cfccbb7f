"""Reproduces a table and kills itself, -9, in the middle of a training.

python reproducing_child.py TABLE.json DATA OUT METHOD TRAINING_TO_DIE_IN
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from zsad.published.table import PublishedTable
from zsad.reproduce.plan import MeasureStep, Site, TrainStep, make_plan, select_columns
from zsad.reproduce.run import HowToRun, run_plan


def main() -> None:
    torch.set_num_threads(1)
    table = PublishedTable.model_validate_json(Path(sys.argv[1]).read_bytes())
    data, out = Path(sys.argv[2]), Path(sys.argv[3])
    columns, deadly = select_columns(table, [sys.argv[4]]), int(sys.argv[5])
    n_trainings = 0

    @contextmanager
    def watch(label: str) -> Iterator[Callable[..., None]]:
        def advance(done: int, total: int, note: str = "") -> None:
            if label == "Training" and n_trainings == deadly and done > total // 2:
                os.kill(os.getpid(), signal.SIGKILL)

        yield advance

    def on_step(step: TrainStep | MeasureStep) -> None:
        nonlocal n_trainings
        n_trainings += isinstance(step, TrainStep)
        print(step.label, flush=True)

    site = Site(data, out, {})
    how = HowToRun(
        data_root=data,
        device=torch.device("cpu"),
        seed=0,
        batch_size=4,
        command="zsad reproduce tiny",
        watch=watch,
        warn=lambda _: None,
        allow_other_counts=True,
    )
    run_plan(make_plan(table, columns, site), how, on_step=on_step)


if __name__ == "__main__":
    main()
