"""Two parts of `gpu.sh`, as Markdown: how fast images become embeddings, and what becomes of batches that do not fit.

    python benchmarks/gpu_speed.py speed [--device cpu --tiny]
    python benchmarks/gpu_speed.py memory [--device cpu --tiny]

Weights are random, since neither speed nor memory depends on them; images are drawn; the encoder runs in bfloat16.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from embedding_speed import SIZE, best, encode, linear_layers, ours
from torch.nn import functional as F

from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.embedding import encoder as encoder_module
from sam_bloodcell.embedding import network as loaded
from sam_bloodcell.embedding.encoder import Encoder
from sam_bloodcell.embedding.recipe import NetworkSpec, Recipe
from sam_bloodcell.models.inference import accelerate
from sam_bloodcell.models.sam import SAM, SAM_PIXEL_STATS, SIZES, normalise
from sam_bloodcell.weights.backbones import Backbone

GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["speed", "memory"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="vit_tiny and few images")
    args = parser.parse_args()
    {"speed": speed, "memory": memory}[args.part](torch.device(args.device), args.tiny)


def speed(device: torch.device, tiny: bool) -> None:
    """Print images per second of each network, its encoder alone and the whole way from pixels to embeddings."""
    drawn = make_blood_cells(1 if tiny else 6, random_state=0).images
    images = list(drawn) * (1 if tiny else 10)
    line("network", "batch", "encoder, images/s", "bare linear layers, images/s", "their share of the encoder's time")
    line(*["---"] * 5)
    whole = []
    for name in ["vit_tiny"] if tiny else ["vit_b", "vit_l", "vit_h"]:
        sam = random_sam(name, device)
        weight = sam.image_encoder.patch_embed.proj.weight
        usual = encoder_of(name, sam, device).images_per_pass()
        for batch in [2, 4] if tiny else [usual, 256]:
            pixels = normalise(torch.from_numpy(drawn[np.arange(batch) % len(drawn)]).to(device), SAM_PIXEL_STATS)
            forward = best(lambda sam=sam, pixels=pixels: encode(sam, [pixels]), 3) / batch
            floor = linear_layers(SIZES[name], weight, 1, batch)
            line(name, batch, f"{1 / forward:,.1f}", f"{1 / floor:,.1f}", f"{floor / forward:.0%}")
        seconds = best(lambda sam=sam: ours(sam, images, device), 1)
        whole.append(f"{name}: {len(images) / seconds:,.1f} images/s in batches of {usual}")
    print(f"\nFrom {len(images)} decoded images to embeddings and masks, in one process:\n")
    for row in whole:
        print(f"- {row}")


def memory(device: torch.device, tiny: bool) -> None:
    """Ask for far too large a batch, and print the passes that were tried and whether the result is the same."""
    name, asked, room = ("vit_tiny", 32, 0.25) if tiny else ("vit_b", 4096, 4.0)
    encoder = encoder_of(name, random_sam(name, device), device)
    drawn = make_blood_cells(1, random_state=0).images
    pixels = drawn[np.arange(asked) % len(drawn)]
    expected = torch.from_numpy(encoder.forward(drawn)[0]).flatten(1)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.set_per_process_memory_fraction(min(1.0, room * GIB / torch.cuda.mem_get_info()[1]))
        print(f"{name}, batch_size={asked}, with {room:g} GiB of the GPU's memory allowed:\n")
    else:
        print(f"{name}, batch_size={asked}, on a CPU that is made to refuse more than 8 images:\n")
    tried = watch_passes(at_most=None if device.type == "cuda" else 8)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokens = torch.from_numpy(encoder.forward(pixels)[0]).flatten(1)
    seconds = time.perf_counter() - start
    line("images in the pass", "passes tried", "of which fitted")
    line(*["---"] * 3)
    for size in sorted({size for size, _ in tried}, reverse=True):
        outcomes = [fitted for n, fitted in tried if n == size]
        line(size, len(outcomes), sum(outcomes))
    cosine = F.cosine_similarity(tokens, expected[np.arange(asked) % len(drawn)]).min().item()
    print(f"\n- {asked} images in {seconds:.1f} s, {asked / seconds:,.1f} images/s, failed passes included")
    print(f"- smallest cosine to the tokens of a pass of {len(drawn)}: {cosine:.5f}")
    if device.type == "cuda":
        print(f"- peak of the allocated memory: {torch.cuda.max_memory_allocated() / GIB:.2f} GiB")
    print(f"- {len(caught)} warnings, the last one: {caught[-1].message}" if caught else "- no warning: all fitted")


def random_sam(name: str, device: torch.device) -> Any:
    """Return a network of random weights, ready for inference in bfloat16 on the device."""
    torch.manual_seed(0)
    with torch.device(device):  # a GPU draws the weights of vit_h in a moment, a CPU in half a minute
        sam = SAM(SIZES[name], SIZE)
    return accelerate(sam.to(device)).set_encoder_dtype(torch.bfloat16)


def encoder_of(name: str, sam: Any, device: torch.device) -> Encoder:
    """Return the library's own encoder for a network that is loaded already."""
    spec = NetworkSpec(Backbone(f"random {name}"), None, SIZE, "bfloat16", device.type)
    loaded._last.spec, loaded._last.sam = spec, sam
    return Encoder(Recipe(spec, SAM_PIXEL_STATS, "none"))


def watch_passes(at_most: int | None) -> list[tuple[int, bool]]:
    """Return a list that fills with the size of each pass and whether it fitted; a CPU refuses more than `at_most`."""
    run: Callable = encoder_module.run_network
    tried: list[tuple[int, bool]] = []

    def watched(sam: Any, recipe: Recipe, pixels: np.ndarray) -> Any:
        try:
            if at_most is not None and len(pixels) > at_most:
                raise torch.OutOfMemoryError("no room")
            result = run(sam, recipe, pixels)
        except torch.OutOfMemoryError:
            tried.append((len(pixels), False))
            raise
        tried.append((len(pixels), True))
        return result

    encoder_module.run_network = watched
    return tried


def line(*cells: Any) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
