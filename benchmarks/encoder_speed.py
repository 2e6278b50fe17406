"""How fast encoders turn images into tokens: ours, transformers' and their bare linear layers, in one run.

    python benchmarks/encoder_speed.py [--networks all] [--device cpu cuda] [--out docs/tables/encoder_speed.csv]

Weights and pixels are random, since speed depends on neither; nothing else should run. Images per second of the forward
pass alone: images are in memory, as normalised pixels. `--tiny` tries everything with few small networks in seconds.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from embedding_speed import by_turns, linear_layers_way, transformers_sam

from sam_bloodcell.models import devices
from sam_bloodcell.models.inference import accelerate
from sam_bloodcell.models.sam import SAM, SIZES, EncoderSize
from sam_bloodcell.models.vit import ViT, ViTLayout

CELLPOSE = replace(SIZES["vit_l"], global_blocks=tuple(range(24)), patch=8, stretched=True)
SAMS = {**{name: (size, 224) for name, size in SIZES.items()}, "cellpose-SAM": (CELLPOSE, 256)}
# Width, blocks and heads.
DINOV2 = {"DINOv2-S": (384, 12, 6), "DINOv2-B": (768, 12, 12), "DINOv2-L": (1024, 24, 16)}
USUAL = ("vit_tiny", "vit_b", "DINOv2-S", "DINOv2-B")
BATCHES = {"cpu": 8, "cuda": 64}


@dataclass
class Compared:
    """One encoder twice, ours and transformers', with the same shapes."""

    size: EncoderSize | ViTLayout
    image_size: int
    ours: torch.nn.Module
    theirs: torch.nn.Module
    tokens: int  # of one image
    encode: Callable[[torch.Tensor], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = [*SAMS, *DINOV2]
    parser.add_argument("--networks", nargs="+", default=USUAL, choices=[*everything, "all"])
    parser.add_argument("--device", nargs="+", default=["cpu"] + ["cuda"] * torch.cuda.is_available())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="two blocks of each network, two images, one repeat")
    parser.add_argument("--out", help="CSV to write")
    args = parser.parse_args()
    rows = []
    line("device", "network", "parameters", "type", "ours, images/s", "transformers", "linear layers alone", "ours x")
    line(*["---"] * 8)
    for device in map(torch.device, args.device):
        for name in everything if "all" in args.networks else args.networks:
            for row in measure(name, device, args.tiny, args.repeats):
                rows.append(row)
                show(row)
    if args.out:
        pd.DataFrame(rows).to_csv(args.out, index=False)


def measure(name: str, device: torch.device, tiny: bool, repeats: int) -> list[dict[str, Any]]:
    """Return a row for each type of number that the device computes in."""
    torch.manual_seed(0)
    with torch.device(device):
        pair = sam(*SAMS[name], tiny) if name in SAMS else dinov2(*DINOV2[name], tiny)
    batch = 2 if tiny else BATCHES[device.type]
    if pair.tokens > 500:
        batch = max(1, batch // 4)
    rows = []
    for dtype in (torch.float32, torch.bfloat16) if devices.half_dtype(device) else (torch.float32,):
        pixels = torch.randn(batch, 3, pair.image_size, pair.image_size, device=device, dtype=dtype)
        pair.ours.to(dtype)
        pair.theirs.to(dtype)
        ways = {
            "ours": inference(pair.encode, pixels),
            "transformers": inference(pair.theirs, pixels),
            "linear": linear_layers_way(pair.size, pixels, batch * pair.tokens),
        }
        seconds = by_turns(ways, 1 if tiny else repeats)
        rows.append(
            {
                "device": name_of(device),
                "network": name,
                "image_size": pair.image_size,
                "tokens": pair.tokens,
                "parameters": sum(p.numel() for n, p in pair.ours.named_parameters() if not n.startswith("neck.")),
                "dtype": str(dtype).removeprefix("torch."),
                "batch": batch,
                **{way: round(batch / taken, 2) for way, taken in seconds.items()},
            }
        )
    return rows


def sam(size: EncoderSize, image_size: int, tiny: bool) -> Compared:
    """Return one of Segment Anything's encoders, both without the neck."""
    if tiny:
        size = replace(size, depth=2, global_blocks=(1,))
    ours = accelerate(SAM(size, image_size))
    theirs = transformers_sam(size, image_size)
    theirs.vision_encoder.neck = torch.nn.Identity()
    return Compared(size, image_size, ours.image_encoder, theirs, (image_size // size.patch) ** 2, ours.tokens)


def dinov2(width: int, depth: int, heads: int, tiny: bool) -> Compared:
    """Return one of DINOv2's networks, which DinoBloom and RedDino share."""
    from transformers import Dinov2Config, Dinov2Model

    layout = ViTLayout(width, 2 if tiny else depth, heads, 4 * width, patch=14, grid=37, layer_scale=True, offset=0.1)
    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=layout.depth, num_attention_heads=heads, image_size=518, patch_size=14
    )
    ours = ViT(layout).eval()
    return Compared(layout, 224, ours, Dinov2Model(config).eval(), 16 * 16 + 1, ours)


def inference(forward: Callable[[torch.Tensor], Any], pixels: torch.Tensor) -> Callable[[], Any]:
    """Return a forward pass that keeps nothing for gradients."""
    return torch.inference_mode()(lambda: forward(pixels))


def name_of(device: torch.device) -> str:
    """Return what a reader should know of the device."""
    threads = torch.get_num_threads()
    return (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads} thread{'s' * (threads != 1)}"
    )


def show(row: dict[str, Any]) -> None:
    rates = (f"{row[way]:,.1f}" for way in ("ours", "transformers", "linear"))
    millions = f"{row['parameters'] / 1e6:.1f} M"
    line(row["device"], row["network"], millions, row["dtype"], *rates, f"{row['ours'] / row['transformers']:.2f}")


def line(*cells: Any) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
