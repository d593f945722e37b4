"""Errors that the user can correct: what is wrong, where, and what to do next."""

import errno

OUT_OF_MEMORY = "it does not fit into memory"
OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "MPS backend out of memory")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)


class StepError(Exception):
    """An error that the user can correct. Its text says what is wrong, where, and what to do next."""


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out: that of Python, the system, a GPU, or torch on a CPU or on Apple's GPU."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, ImportError):
        return "failed to map segment" in str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)


def disk_advice(error: BaseException | None) -> str:
    """Return what to do if the error, or an error behind it, is a full disk or a missing permission; else ""."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (*DISK_FULL, *NO_PERMISSION):
            where = f" ({error.filename})" if error.filename else ""
            if error.errno in DISK_FULL:
                return f"the disk is full{where}. Free space, then run again: the run continues from here."
            return (
                f"{error.strerror}{where}. Get the right to read and write there, or use another place, then run again."
            )
        error = error.__cause__ or error.__context__
    return ""
