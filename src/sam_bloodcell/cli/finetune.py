"""`sam-bloodcell finetune`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import Adapter, Cells, Device, ImageSize, Quiet, Root, SAMBackbone, Seed, tell_cells


def finetune(
    cells: Cells,
    out: Annotated[Path, typer.Option(help="Adapter folder to write; created if it is missing.")] = Path("adapter"),
    masks: Annotated[
        Literal["given", "auto"], typer.Option(help="given: masks of the table; auto: masks made from the stain.")
    ] = "given",
    backbone: SAMBackbone = "vit_tiny",
    adapter: Adapter = None,
    lora_rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA factors.")] = 4,
    epochs: Annotated[int, typer.Option(min=1, help="Maximum number of epochs; training stops early.")] = 150,
    image_size: ImageSize = 224,
    device: Device = "auto",
    seed: Seed = 0,
    root: Root = None,
    quiet: Quiet = False,
) -> None:
    """Adapt the encoder to your cells by LoRA, from their masks; the same command resumes if interrupted.

    Example: sam-bloodcell finetune cells.csv --out adapter
    """
    from ..datasets import keep_masked, load_cells
    from ..embedding.embedder import SAMLoRAEmbedder
    from ..files import make_folder, remove, write_text
    from ..segmentation import LoRATraining
    from ..weights.vits import is_vit

    if is_vit(backbone, with_adapter=True):  # before the masks are made
        raise ValueError(
            f"Got --backbone {backbone}, a plain ViT, but only Segment Anything is fine-tuned on masks. Fix: "
            "--backbone vit_tiny, and pass the adapter with the ViT to embed, train or benchmark."
        )
    data = load_cells(cells, root=root)
    if masks == "given":
        data = keep_masked(data)
    tell_cells(data)
    checkpoint = make_folder(out) / "unfinished.pt"
    training = LoRATraining(rank=lora_rank, epochs=epochs, checkpoint=checkpoint, random_state=seed)
    embedder = SAMLoRAEmbedder(
        backbone, adapter, image_size=image_size, training=training, device=device, verbose=0 if quiet else 1
    ).fit(data.paths, masks=data.masks if masks == "given" else "auto")
    best = float(embedder.history_["dice"].max())
    embedder.save_pretrained(out, metrics={"Dice on the held-out cells": round(best, 4)})
    write_text(out / "history.csv", embedder.history_.to_csv(index=False))
    remove(checkpoint)
    before = embedder.history_.attrs["dice_before"]
    if best > before:
        told = f"Dice {best:.3f} on the held-out cells; the weights of epoch {embedder.best_epoch_ + 1} are kept."
    else:
        told = (
            f"The fine-tuning did not improve the masks: Dice {before:.3f} on the held-out cells before it, "
            f"{best:.3f} after its best epoch, whose weights are in the folder. Fix: keep the weights that you started "
            "from, or try more cells, better masks, or LoRATraining(learning_rate=1e-5) in Python."
        )
    typer.echo(f"{told}\n{out}")
