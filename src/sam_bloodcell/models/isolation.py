"""The settings with which this package computes: the defaults of torch and numpy instead of the caller's settings."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass
class _ProcessWide:
    """The caller's values of settings that torch keeps once for all threads, while any thread is inside."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    inside: int = 0
    dtype: torch.dtype = torch.float32
    precision: str | None = "highest"


_callers = _ProcessWide()


@contextmanager
def own_settings(device: torch.device | None = None) -> Iterator[None]:
    """Compute with the defaults of torch and numpy, and leave the caller's settings and random numbers as they were.

    Covered are torch's default type and device, ``no_grad``, ``inference_mode``, autocast, the precision of float32
    products, and what numpy does about floating point errors. Random numbers drawn inside do not move the caller's
    generators; name the `device` where a CUDA device that may not have been used before is one of them.
    """
    with ExitStack() as stack:
        stack.enter_context(_own_process_wide_settings())
        stack.enter_context(torch.random.fork_rng(devices=_cuda_devices(device)))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.empty(0).device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        yield


@contextmanager
def _own_process_wide_settings() -> Iterator[None]:
    """Note the caller's values in the first thread that comes in, and restore them in the last that leaves."""
    with _callers.lock:
        if _callers.inside == 0:
            _callers.dtype, _callers.precision = torch.get_default_dtype(), _matmul_precision()
            _set_process_wide(torch.float32, "highest")
        _callers.inside += 1
    try:
        yield
    finally:
        with _callers.lock:
            _callers.inside -= 1
            if _callers.inside == 0:
                _set_process_wide(_callers.dtype, _callers.precision)


def _matmul_precision() -> str | None:
    """Return the precision of float32 products; None where the caller has set it for each backend by itself."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch refuses to mix its two ways of setting it
        return None


def _set_process_wide(dtype: torch.dtype, precision: str | None) -> None:
    if torch.get_default_dtype() != dtype:
        torch.set_default_dtype(dtype)
    if precision is not None and _matmul_precision() not in (None, precision):
        torch.set_float32_matmul_precision(precision)


def _cuda_devices(device: torch.device | None) -> list[torch.device | int]:
    """List the CUDA devices whose random numbers can move: all that are in use, and `device`."""
    if torch.cuda.is_initialized():
        return list(range(torch.cuda.device_count()))
    return [device] if device is not None and device.type == "cuda" else []
