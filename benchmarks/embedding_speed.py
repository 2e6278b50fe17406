"""How fast images become embeddings: the published way, other libraries, and ours, on the same images in one run.

Weights are random: speed does not depend on them, and no 375 MB have to be fetched. Real cells where they are at hand,
drawn ones elsewhere. Run alone: python benchmarks/embedding_speed.py [--images 32]
"""

import argparse
import copy
import time

import numpy as np
import torch
from shared_cells import DATA, read_tables
from torch.nn import functional as F

from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.embedding import network as loaded
from sam_bloodcell.embedding.encoder import Encoder
from sam_bloodcell.embedding.network import cell_probability
from sam_bloodcell.embedding.recipe import NetworkSpec, Recipe
from sam_bloodcell.images.frames import load_square
from sam_bloodcell.images.reading import read_content
from sam_bloodcell.models.inference import accelerate
from sam_bloodcell.models.sam import SAM, SAM_PIXEL_STATS, SIZES, normalise
from sam_bloodcell.segmentation.cell import cell_crop, find_cell, token_weights
from sam_bloodcell.weights.backbones import Backbone

SIZE = 224


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--backbone", default="vit_b", choices=list(SIZES))
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    images = find_images(args.images)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    size = SIZES[args.backbone]
    sam = SAM(size, SIZE).eval().requires_grad_(False).to(device)
    for name, parameter in sam.named_parameters():
        if "pos" in name:
            parameter.normal_(0, 0.02)
    reference = torch.cat([published(sam, image, device) for image in images]).float().flatten(1)

    fp32 = accelerate(copy.deepcopy(sam))
    bf16 = accelerate(copy.deepcopy(sam)).set_encoder_dtype(torch.bfloat16)
    original = copy.deepcopy(sam)
    ways = {
        "published: fp32, one at a time, encoder + decoder": lambda: [published(sam, i, device) for i in images],
        "transformers.SamVisionModel, fp32, batches of 8": transformers_way(args.backbone, images, device),
        "segment_anything encoder, fp32, batches of 8": lambda: [
            original.image_encoder(batch) for batch in batches(images, 8, device)
        ],
        "ours, fp32": lambda: ours(fp32, images, device),
        "ours, bf16": lambda: ours(bf16, images, device),
    }
    print(f"{args.backbone} at {SIZE} px, {len(images)} images, {device}, {torch.get_num_threads()} threads\n")
    seconds = by_turns(ways, args.repeats)
    base = next(iter(seconds.values()))
    for name, value in seconds.items():
        print(f"{name:52s}{len(images) / value:8.2f} images/s {base / value:6.2f}x")
    read = [normalise(torch.from_numpy(p).to(device), SAM_PIXEL_STATS) for p in square_batches(images, 8)]
    for name, network in (("fp32", fp32), ("bf16", bf16)):
        tokens = torch.cat(encode(network, read)).float().flatten(1)
        cosine = F.cosine_similarity(tokens, reference).min().item()
        forward = best(lambda network=network: encode(network, read), args.repeats)
        floor = linear_layers(size, network.image_encoder.patch_embed.proj.weight, len(images))
        print(
            f"\nours, {name}: cosine to fp32 {cosine:.5f} (target 0.999); encoder "
            f"{forward / len(images):.4f} s an image, "
            f"the bare linear layers {floor / len(images):.4f} s: {forward / floor:.2f}x (target 1.25x)"
        )
    print(
        f"\nours against the published way: bf16 {base / seconds['ours, bf16']:.2f}x (target 2.2x), "
        f"fp32 {base / seconds['ours, fp32']:.2f}x (target 1x)"
    )


def find_images(n):
    if (DATA / "cells.csv").is_file():
        return read_tables("cells.csv")["path"].sample(n, random_state=0).tolist()
    return list(make_blood_cells(n // 10 + 1, random_state=0).images[:n])


def square_batches(images, size):
    for start in range(0, len(images), size):
        yield np.stack([load_square(image, SIZE) for image in images[start : start + size]])


def batches(images, size, device):
    for pixels in square_batches(images, size):
        yield normalise(torch.from_numpy(pixels).to(device), SAM_PIXEL_STATS)


@torch.inference_mode()
def published(sam, image, device):
    """The papers' code: encoder with its neck, then the decoder, one image at a time; then crop and pooling."""
    pixels = next(square_batches([image], 1))
    tokens = sam.tokens(normalise(torch.from_numpy(pixels).to(device), SAM_PIXEL_STATS))
    mask, _ = find_cell(cell_probability(sam, tokens, "none")[0].cpu().numpy())
    cell_crop(pixels[0], mask)
    (tokens[0].cpu().numpy() * token_weights(mask, tokens.shape[2:])).sum((1, 2))
    return tokens.clone()


def ours(sam, images, device):
    """Run the library's own way from files to embeddings, on a network that is loaded already."""
    dtype = str(sam.image_encoder.patch_embed.proj.weight.dtype).removeprefix("torch.")
    spec = NetworkSpec(Backbone("random"), None, SIZE, dtype, device.type)
    loaded._last.spec, loaded._last.sam = spec, sam
    encoder = Encoder(Recipe(spec, SAM_PIXEL_STATS, "none"))
    size = encoder.images_per_pass()
    starts = range(0, len(images), size)
    chunks = ([(at + i, read_content(image)) for i, image in enumerate(images[at : at + size])] for at in starts)
    return [record for done in encoder.stream(chunks) for record in done.records]


@torch.inference_mode()
def encode(sam, batches):
    return [sam.tokens(batch.to(sam.image_encoder.patch_embed.proj.weight.dtype)) for batch in batches]


def transformers_sam(size, image_size=SIZE):
    """Return transformers' own encoder of a size, with random weights."""
    from transformers import SamVisionConfig, SamVisionModel

    config = SamVisionConfig(
        hidden_size=size.width, num_hidden_layers=size.depth, num_attention_heads=size.heads, image_size=image_size,
        patch_size=size.patch, global_attn_indexes=list(size.global_blocks), mlp_dim=4 * size.width,
    )  # fmt: skip
    return SamVisionModel(config).eval()


def transformers_way(backbone, images, device):
    model = transformers_sam(SIZES[backbone]).to(device)

    @torch.inference_mode()
    def run():
        return [model(batch).last_hidden_state for batch in batches(images, 8, device)]

    return run


def by_turns(ways, repeats):
    """Return the shortest of several times of each way; by turns, so that a slow moment of the machine meets all."""
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, way in ways.items():
            seconds[name] = min(seconds[name], best(way, 1))
    return seconds


def linear_layers(size, weight, n, batch=8):
    """Return the seconds that the encoder's linear layers alone take for n images in batches, as torch has them."""
    return best(linear_layers_way(size, weight, batch * (SIZE // size.patch) ** 2), 3) / batch * n


def linear_layers_way(size, weight, rows):
    """Return what passes so many tokens through an encoder's linear layers and does nothing else."""
    width = size.width
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    kind = {"dtype": weight.dtype, "device": weight.device}
    layers = [(torch.randn(rows, i, **kind), torch.randn(o, i, **kind), torch.randn(o, **kind)) for i, o in shapes]

    @torch.inference_mode()
    def run():
        for _ in range(size.depth):
            for layer in layers:
                F.linear(*layer)

    return run


def best(run, repeats):
    """Return the shortest of several times, after one to warm up."""
    run()
    synchronise()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        synchronise()
        times.append(time.perf_counter() - start)
    return min(times)


def synchronise():
    """Wait for the GPU, where there is one: it computes behind the program's back."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
