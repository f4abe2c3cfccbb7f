"""Keeps the memory that tensors on a CPU give back, for the next ones. Knows glibc alone."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Of mallopt(3)."""
_NEVER_BYTES = 2**31 - 1
_ALONE_BYTES = 2**30
"""Blocks of this size and above still come from the kernel and go back to it."""


def keep_freed_memory() -> bool:
    """Let this process keep freed memory; before it starts threads, where it can be.

    glibc gives large blocks back to the kernel as soon as they are free, and the kernel hands
    them out again page by page, filled with zeros: 70,000 page faults in a batch of 8 of the
    embedded detector, a tenth of its time. The peak stays what it was, and now stays.

    Returns:
        Whether the C library could be told.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    options = (
        (_MMAP_THRESHOLD, _ALONE_BYTES),
        (_TRIM_THRESHOLD, _NEVER_BYTES),
        (_ARENA_MAX, 1),  # what one thread freed serves the others
    )
    return all(mallopt(option, value) == 1 for option, value in options)
