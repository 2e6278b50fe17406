"""The device and the floating point type of computations."""

import os
import threading

import torch

_process = os.getpid()
_thread = threading.local()


def choose(device: str) -> torch.device:
    """Resolve "auto" to CUDA if it is available, otherwise to the CPU, and check that this machine has the device."""
    _let_go_of_the_parents_threads()
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as exc:
        raise ValueError(f"Got device={device!r} but expected 'auto', 'cpu' or 'cuda'.") from exc
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"Got device={device!r} but torch sees no CUDA device. Fix: device='auto' or 'cpu'.")
    return chosen


def half_dtype(device: torch.device) -> torch.dtype | None:
    """Return bfloat16 if the device supports it natively, or None."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    # Another version of torch may lack these private functions. float32 works on every CPU.
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return torch.bfloat16 if any(supported() for supported in asked if supported is not None) else None


def _let_go_of_the_parents_threads() -> None:
    """Compute with one thread in a forked process, because it would wait forever for OpenMP's threads in its parent."""
    if os.getpid() != _process and not hasattr(_thread, "computes_alone"):
        _thread.computes_alone = True
        torch.set_num_threads(1)  # of the calling thread
