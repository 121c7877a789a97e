"""What a process is told before it maps: arrays come again and again, matrices are small."""

import ctypes
from pathlib import Path

import scipy.linalg  # noqa: F401, it brings a BLAS of its own
from threadpoolctl import ThreadpoolController

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of mallopt(3)
KEPT = 32 << 20  # bytes of freed memory at the end of the heap that stay for the next arrays
LARGE = 8 << 20  # bytes: such arrays return to the system, else the holes they leave add up
ARENAS = 2  # of threads


def steady_heap() -> None:
    """What is freed is used again. By default glibc returns it after every few arrays, and the
    kernel clears it anew for the next: as much time as the arithmetic itself. Elsewhere nothing is
    done."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, number in (
            (M_TRIM_THRESHOLD, KEPT),
            (M_MMAP_THRESHOLD, LARGE),
            (M_ARENA_MAX, ARENAS),
        ):
            mallopt(option, number)


def return_holes() -> None:
    """Pages that lie free between what is kept go back: a long run's small leavings scatter over
    more and more of them. Takes two milliseconds; what `steady_heap` keeps stays."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(KEPT))


def one_blas_thread() -> None:
    """Linear algebra of numpy, scipy and OpenCV stays in the thread that asks for it: BLAS would
    keep every other core busy with waiting for the next small matrix. torch keeps its threads."""
    for library in ThreadpoolController().lib_controllers:
        if library.user_api == "blas" and "torch" not in Path(library.filepath).parts:
            library.set_num_threads(1)
