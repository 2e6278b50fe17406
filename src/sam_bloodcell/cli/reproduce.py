"""`sam-bloodcell reproduce`."""

from pathlib import Path
from typing import Annotated

import typer

from .benchmark import prepare_folder
from .options import (
    Adapter,
    BatchSize,
    CacheDir,
    Device,
    Epochs,
    Folds,
    Jobs,
    Out,
    PapersBackbone,
    Presets,
    Quiet,
    Seed,
)


def reproduce(
    paper: Annotated[Presets, typer.Argument(help="The paper whose table is reproduced.")],
    matek: Annotated[Path, typer.Option(help="Folder of Matek-19 (AML-Cytomorphology_LMU).")],
    acevedo: Annotated[Path, typer.Option(help="Folder of Acevedo-20 (PBC_dataset_normal_DIB).")],
    out: Out = Path("out"),
    backbone: PapersBackbone = "vit_b",
    adapter: Adapter = None,
    masks: Annotated[
        str | None,
        typer.Option(
            help="Train an adapter first: path of the authors' Bloodcell_train.dat.gz, or auto (stain masks)."
        ),
    ] = None,
    adapter_epochs: Annotated[int, typer.Option(min=1, help="Maximum number of epochs of the adapter.")] = 150,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of cells per class and laboratory.")] = None,
    epochs: Epochs = None,
    cv: Folds = 5,
    seed: Seed = 0,
    cache_dir: CacheDir = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    n_jobs: Jobs = None,
    quiet: Quiet = False,
) -> None:
    """Reproduce a paper's table from folders of its two datasets, and print our numbers beside the published ones.

    The same command resumes if interrupted, from the results in the folder "stages" of the output.

    Example: sam-bloodcell reproduce bc-sam --matek AML --acevedo PBC --adapter published.pth
    """
    from .. import reproduce as papers
    from ..files import write_text
    from ..report.page import write_report

    prepare_folder(out, f"{paper}.csv")
    table, result = papers.reproduce(
        paper, matek, acevedo, backbone=backbone, adapter=adapter, masks=masks, adapter_epochs=adapter_epochs,
        limit=limit, epochs=epochs, cv=cv, random_state=seed, work_dir=out / "stages", cache_dir=cache_dir,
        device=device, batch_size=batch_size or "auto", n_jobs=n_jobs, verbose=0 if quiet else 1,
    )  # fmt: skip
    table = table.round(2)
    write_text(out / f"{paper}.csv", table.to_csv(index=False))
    report = write_report(result, out / "report.html", title=f"{paper}, reproduced", figures=out / "figures")
    typer.echo("Accuracy in percent (mean and standard deviation over folds) beside the published one:")
    typer.echo(table.to_string(index=False))
    numbers = [name for name in ("ours", "published", "notebook") if name in table]
    means = table.groupby("classifier", sort=False)[numbers].mean().round(2)
    typer.echo(f"\nAverages over the four pairs of datasets:\n{means.to_string()}\n\n{out / f'{paper}.csv'}\n{report}")
