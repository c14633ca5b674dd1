"""How much memory this process has needed at most."""

import sys

import torch


def peak_memory_bytes() -> int:
    """The largest resident size of this process so far, in bytes."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_gpu_bytes() -> int | None:
    """The most that tensors have held on the GPU at once, in bytes; None without one."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
