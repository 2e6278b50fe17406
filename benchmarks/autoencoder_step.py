"""What a training step of BC-SAM's published autoencoder costs (128 px, float32), and one of our convolutional one.

python benchmarks/autoencoder_step.py
"""

import time

import torch
from torch import nn

from sam_bloodcell.models.autoencoders import CROP_SIZES, ConvAutoencoder
from sam_bloodcell.models.losses import ssim
from sam_bloodcell.models.published import BCSAMAutoencoder

BATCH, STEPS, WIDTH = 16, 4, 192


def seconds_per_cell(network: nn.Module, crop_size: int, dtype: torch.dtype, *, padded: bool) -> float:
    """Median seconds of a step, forward and backward, per cell; in bfloat16 with channels last, as we train."""
    torch.manual_seed(0)
    layout = torch.contiguous_format if dtype == torch.float32 else torch.channels_last
    network.to(memory_format=layout)
    tokens = torch.randn(BATCH, WIDTH, 14, 14).contiguous(memory_format=layout)
    crops = torch.rand(BATCH, 3, crop_size, crop_size)
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = 1 - ssim(network(tokens).crops, crops, padded=padded)
        loss.backward()
        times.append(time.perf_counter() - start)
    return sorted(times)[STEPS // 2] / BATCH


if __name__ == "__main__":
    published = seconds_per_cell(BCSAMAutoencoder(WIDTH), 128, torch.float32, padded=True)
    print(f"published, 128 px float32: {published:.3f} s per cell and step")
    preset = seconds_per_cell(BCSAMAutoencoder(WIDTH), 128, torch.bfloat16, padded=True)
    print(f'preset="bc-sam", 128 px bfloat16: {preset:.3f} s, {published / preset:.1f}x faster')
    for size in CROP_SIZES:
        ours = seconds_per_cell(ConvAutoencoder(WIDTH, crop_size=size), size, torch.bfloat16, padded=False)
        print(f"{size:3d} px bfloat16, channels last: {ours:.3f} s, {published / ours:.1f}x faster")
