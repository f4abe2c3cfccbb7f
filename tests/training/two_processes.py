"""What `torchrun` starts in every process: `zsad train`, during which Ctrl-C is pressed.

torchrun --nproc-per-node 2 tests/training/two_processes.py STEPS train ...
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from daemon.cli import train
from daemon.cli.main import main


def _interrupting(n_steps: int) -> Callable[[str], object]:
    """A progress bar during which Ctrl-C is pressed after so many training steps."""

    @contextmanager
    def watch(label: str) -> Iterator[Callable[..., None]]:
        def advance(done: int, total: int, note: str = "") -> None:
            if label == "Training" and done == n_steps:
                raise KeyboardInterrupt

        yield advance

    return watch


if __name__ == "__main__":
    train.progress_bar = train._silently = _interrupting(int(sys.argv[1]))
    sys.exit(0 if main(sys.argv[2:]) == 130 else 1)
