"""What a training step of the convolutional autoencoder costs, against the published one (128 px, float32).

python benchmarks/autoencoder_step.py
"""

import time

import torch

from sam_bloodcell.models.autoencoders import CROP_SIZES, ConvAutoencoder
from sam_bloodcell.models.losses import ssim

BATCH, STEPS, WIDTH = 16, 4, 192


def seconds_per_cell(crop_size: int, dtype: torch.dtype, channels_last: bool) -> float:
    """Median seconds of a step, forward and backward, per cell."""
    torch.manual_seed(0)
    network = ConvAutoencoder(WIDTH, crop_size=crop_size)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network.to(memory_format=layout)
    tokens = torch.randn(BATCH, WIDTH, 14, 14).contiguous(memory_format=layout)
    crops = torch.rand(BATCH, 3, crop_size, crop_size)
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = 1 - ssim(network(tokens)[1], crops)
        loss.backward()
        times.append(time.perf_counter() - start)
    return sorted(times)[STEPS // 2] / BATCH


if __name__ == "__main__":
    published = seconds_per_cell(128, torch.float32, channels_last=False)
    print(f"published, 128 px float32: {published:.3f} s per cell and step")
    for size in CROP_SIZES:
        ours = seconds_per_cell(size, torch.bfloat16, channels_last=True)
        print(f"{size:3d} px bfloat16, channels last: {ours:.3f} s, {published / ours:.1f}x faster")
