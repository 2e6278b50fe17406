"""Computation with the default settings of torch and numpy instead of the caller's settings."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass
class _ProcessWide:
    """The caller's values of torch's global settings, while any thread computes with the defaults."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    inside: int = 0
    dtype: torch.dtype = torch.float32
    precision: str | None = "highest"


_callers = _ProcessWide()


@contextmanager
def own_settings(device: torch.device | None = None) -> Iterator[None]:
    """Compute with the defaults of torch and numpy, and restore the caller's settings and random numbers afterwards.

    This covers torch's default type and device, ``no_grad``, ``inference_mode``, autocast, the precision of float32
    products, and numpy's handling of floating point errors. Random numbers that are drawn inside do not change the
    caller's generators. Pass the `device` if it is a CUDA device that may not have been used before.
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
    """Store the caller's values in the first thread that enters, and restore them in the last one that leaves."""
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
    """Return the precision of float32 products; None if the caller has set it separately for each backend."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch does not allow both ways of setting it
        return None


def _set_process_wide(dtype: torch.dtype, precision: str | None) -> None:
    if torch.get_default_dtype() != dtype:
        torch.set_default_dtype(dtype)
    if precision is not None and _matmul_precision() not in (None, precision):
        torch.set_float32_matmul_precision(precision)


def _cuda_devices(device: torch.device | None) -> list[torch.device | int]:
    """List the CUDA devices whose random numbers can change: all devices in use, and `device`."""
    if torch.cuda.is_initialized():
        return list(range(torch.cuda.device_count()))
    return [device] if device is not None and device.type == "cuda" else []
