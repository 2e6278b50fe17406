"""Images, colour corrections and forward passes of `readouts.py`."""

import numpy as np
import torch
from laboratories_cells import LABORATORIES, draw_training, read_cells
from scipy import ndimage
from skimage.filters import threshold_otsu
from tqdm import tqdm

from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.embedding.network import run_network
from sam_bloodcell.images.frames import load_square
from sam_bloodcell.models.sam import PATCH, normalise
from sam_bloodcell.morphology import measure_cell
from sam_bloodcell.segmentation.cell import cell_crop, find_cell, token_weights
from sam_bloodcell.segmentation.measures import measure_cells

SIZE, BATCH = 224, 16
BLOCKS = tuple(range(1, 13))  # counted from 1; the last one is the packaged embedding's
KEPT_BLOCKS = (4, 6, 8, 10, 12)  # of turned and recoloured images
TURNS = {"turned 90": 1, "turned 180": 2, "turned 270": 3}  # quarters of a turn before the encoder
COLOURS = ("white", "reinhard laboratory")
# Colours are brought to the mean of these, whose images the encoder was pretrained on.
REFERENCES = ("tecom", "acevedo", "cellavision")


def read_subset():
    """Read the cells that train and are tested: at most 150 of each common class and laboratory."""
    cells = read_cells()
    label, domain = cells["common"].to_numpy(str), cells["domain"].to_numpy(str)
    rows = np.concatenate([draw_training(label, domain, (lab,), 0) for lab in LABORATORIES])
    return cells.iloc[rows].reset_index(drop=True)


def blocks_of(colour, turn):
    """Return the numbers of the blocks that a pass reads out."""
    return BLOCKS if colour == "plain" and turn is None else KEPT_BLOCKS


def run_pass(cells, colour, turn, masks=None):
    """Read out every block of one view: a dict of arrays (n, blocks, C), masks, morphology and measures.

    A turned view takes the masks of the unturned image and leaves the decoder out.
    """
    images = np.stack([load_square(path, SIZE) for path in cells["path"]])
    images = recolour(images, cells["domain"].to_numpy(str), colour)
    encoder = SAMLoRAEmbedder("vit_tiny", dtype="float32").fit(["unused"]).encoder_
    network, found, kept = encoder.network(), [], []
    blocks = [network.image_encoder.blocks[block - 1] for block in blocks_of(colour, turn)]
    hooks = [block.register_forward_hook(lambda *call: kept.append(call[-1])) for block in blocks]
    for start in tqdm(range(0, len(images), BATCH), desc=f"{colour} {turn or ''}"):
        pixels = images[start : start + BATCH]
        kept.clear()
        if turn is None:
            probability = run_network(network, encoder.recipe, pixels)[1]
            cell = np.stack([find_cell(each)[0] for each in probability])
            shown = cell
        else:
            cell = np.unpackbits(masks[start : start + BATCH], axis=1).reshape(-1, SIZE, SIZE).astype(bool)
            shown = np.ascontiguousarray(_turned(cell, turn))
            with torch.inference_mode():
                batch = torch.from_numpy(np.ascontiguousarray(_turned(pixels, turn)))
                network.tokens(normalise(batch, encoder.recipe.pixel_stats))
        tokens = [block.numpy() for block in kept]
        nuclei = np.stack([find_nucleus(*each) for each in zip(pixels, cell, strict=True)])
        parts = nuclei if turn is None else np.ascontiguousarray(_turned(nuclei, turn))
        for row in range(len(pixels)):
            read = read_out(np.stack([block[row] for block in tokens]), shown[row], parts[row])
            if turn is None:
                read["mask"] = np.packbits(cell[row])
                read["morphology"] = np.array(measure_cell(cell[row], cell_crop(pixels[row], cell[row])), np.float32)
                read["measures"] = measure_cells(pixels[row : row + 1], cell[row : row + 1])[0].astype(np.float32)
            found.append(read)
    for hook in hooks:
        hook.remove()
    return {name: np.stack([read[name] for read in found]) for name in found[0]}


def _turned(array, turn):
    return np.rot90(array, turn, axes=(1, 2))


def find_nucleus(image, mask):
    """Return the part of the cell that absorbs most red light, by Otsu's threshold, as `CellMorphology` does."""
    red = density(image)[..., 0]
    return mask & (red > threshold_otsu(red[mask])) if np.ptp(red[mask]) > 0 else mask


def read_out(tokens, mask, nucleus):
    """Pool the tokens (blocks, h, w, C) of one image in every way: a dict of (blocks, C)."""
    grid = tokens.shape[1:3]
    flat = tokens.reshape(len(tokens), -1, tokens.shape[-1])
    weights = token_weights(mask, grid).ravel()
    inside = weights > weights.max() / 2
    deep = token_weights(mask * (1e-3 + ndimage.distance_transform_edt(mask)), grid).ravel()
    side = np.linspace(-1, 1, grid[0])
    centre = np.exp(-np.add.outer(side**2, side**2).ravel() / (2 * 0.4**2))
    context = ndimage.binary_dilation(mask, iterations=PATCH)
    mean = weights @ flat
    unit = (flat - flat.mean(-1, keepdims=True)) / flat.std(-1, keepdims=True)
    found = {
        "mean": mean,
        "std": np.sqrt(np.maximum(weights @ np.square(flat - mean[:, None]), 0)),
        "max": flat[:, inside].max(1),
        "min": flat[:, inside].min(1),
        "nucleus": token_weights(nucleus, grid).ravel() @ flat,
        "cytoplasm": token_weights(mask & ~nucleus if (mask & ~nucleus).any() else mask, grid).ravel() @ flat,
        "middle of the cell": deep @ flat,
        "middle of the image": (centre / centre.sum()) @ flat,
        "surroundings": token_weights(context & ~mask if (context & ~mask).any() else mask, grid).ravel() @ flat,
        "whole image": flat.mean(1),
        "mean of unit tokens": weights @ unit,
    }
    return {name: value.astype(np.float32) for name, value in found.items()}


def density(image):
    """Optical density of uint8 images."""
    return -np.log((np.asarray(image, np.float32) + 1) / 256)


def _as_pixels(values):
    return (np.exp(-values) * 256 - 1).clip(0, 255).round().astype(np.uint8)


def recolour(images, domain, colour):
    """Bring the colours of (n, S, S, 3) images to those of the reference laboratories, without labels."""
    if colour == "plain":
        return images
    if colour == "white":
        spread, offset = np.ones((len(images), 3)), np.array([_background(image) for image in images])
    else:
        found = [density(image).reshape(-1, 3) for image in images]
        offset, spread = (np.array([getattr(one, name)(0) for one in found]) for name in ("mean", "std"))
        for lab in np.unique(domain):
            rows = domain == lab
            square = np.mean(offset[rows] ** 2 + spread[rows] ** 2, axis=0)
            offset[rows] = offset[rows].mean(0)
            spread[rows] = np.sqrt(square - offset[rows][0] ** 2)
    wanted = [np.mean([part[domain == lab].mean(0) for lab in REFERENCES], axis=0) for part in (offset, spread)]
    return np.stack([
        _as_pixels((density(image) - offset[row]) / spread[row] * wanted[1] + wanted[0])
        for row, image in enumerate(images)
    ])  # fmt: skip


def _background(image):
    """Optical density of an image's own background: the median of the tenth that lets most green light through."""
    green = image[..., 1]
    return np.median(density(image[green >= np.quantile(green, 0.9)]), axis=0)
