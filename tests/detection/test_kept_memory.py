import subprocess
import sys

COUNTS_FAULTS = """
import resource, sys, threading
import numpy as np
from zsad.kept_memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()


def work():
    for turn in range(12):
        if turn == 2:
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        large, small = np.ones(12_000_000), np.ones(300_000)  # 96 MB and 2.4 MB
        del large, small
    print(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)


thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def page_faults(how: str) -> int:
    """Of ten times the same memory, asked for and freed in a thread of a process of its own."""
    command = [sys.executable, "-c", COUNTS_FAULTS, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_freed_memory_serves_again_without_the_kernel() -> None:
    assert page_faults("keep") < 100
    assert page_faults("give back") > 1_000
