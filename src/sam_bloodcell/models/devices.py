"""Where to compute, and in which floating point type."""

import torch


def choose(device: str) -> torch.device:
    """Resolve "auto" to CUDA where there is one, else CPU.

    Raises
    ------
    ValueError
        If torch does not know the device or this machine has none.
    """
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
    """Return bfloat16 where the device computes in it natively, else None."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else None
