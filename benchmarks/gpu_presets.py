"""A part of `gpu.sh`: both papers' presets, trained for as many epochs as the time allows. Prints Markdown.

    python benchmarks/gpu_presets.py pack                      # where the cells are: out/gpu_cells.npz, at most 36 MB
    python benchmarks/gpu_presets.py train --seconds 240 --out out/gpu
    python benchmarks/gpu_presets.py score out/gpu/features.npz

`pack` keeps the shared cells as the network sees them, squares of 224 px, as JPEG. `train` embeds them with vit_tiny
(drawn cells where there is no such file), trains BC-SAM's preset and then DoRL's, and leaves in `--out`: the features,
the histories, and a checkpoint of each training, from which the same call goes on. The learning rate follows the
preset's whole length, so that a training that the time cut short is the beginning of the paper's training. `score`
trains all classifiers on the features, as `autoencoder_quality.py` does; `train` itself the logistic regression alone.
"""

import argparse
import io
import signal
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from autoencoder_quality import PARTS, scores_of
from PIL import Image
from shared_cells import read_tables, standardise
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sam_bloodcell import CellEmbeddings, CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.alignment.inputs import NetworkInputs
from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.images.frames import load_square
from sam_bloodcell.models import training

ROOT = Path(__file__).parents[1]
# With the checkout's 23 MB, less than the 60 MB that may travel to a lent machine.
SIZE, PACKED_BYTES = 224, 36_000_000
# Share of the time that is left when a training begins.
SHARES = {"bc-sam": 0.5, "dorl": 1.0}
FOR_THE_REST = 15  # seconds after a training: features, scores, files
SMALL = {"epochs": 1, "batch_size": 8, "crop_size": 32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["pack", "train", "score"])
    parser.add_argument("features", nargs="?", type=Path)
    parser.add_argument("--cells", type=Path, default=ROOT / "out" / "gpu_cells.npz")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gpu")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="few drawn cells, one epoch, crops of 32 px")
    args = parser.parse_args()
    if args.part == "pack":
        pack(args.cells)
    elif args.part == "score":
        score(args.features or args.out / "features.npz")
    else:
        train(args)


def pack(file: Path) -> None:
    """Write the shared cells as JPEG squares, in the best quality that keeps the file small enough."""
    table = read_tables("cells.csv")
    squares = [Image.fromarray(load_square(path, SIZE)) for path in table["path"]]
    for quality in (90, 85, 80, 75, 70, 65, 60):
        encoded = [_jpeg(square, quality) for square in squares]
        if sum(map(len, encoded)) < PACKED_BYTES:
            break
    file.parent.mkdir(parents=True, exist_ok=True)
    ends = np.cumsum([len(each) for each in encoded])
    columns = {name: table[name].to_numpy(dtype=str) for name in ("label", "domain")}
    np.savez(file, jpeg=np.frombuffer(b"".join(encoded), np.uint8), ends=ends, **columns)
    print(f"{file}: {len(table)} cells, JPEG quality {quality}, {file.stat().st_size / 1e6:.1f} MB")


def _jpeg(square: Image.Image, quality: int) -> bytes:
    content = io.BytesIO()
    square.save(content, "JPEG", quality=quality)
    return content.getvalue()


def read_cells(file: Path, tiny: bool) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, str]:
    """Return images, labels, domains, and what they are: the packed cells, or drawn ones where there are none."""
    if tiny or not file.exists():
        drawn = make_blood_cells(6 if tiny else 200, domains=("lab_a", "lab_b"), random_state=0)
        return list(drawn.images), np.array(drawn.target_names)[drawn.target], drawn.domain, "drawn cells"
    with np.load(file) as packed:
        jpegs = np.split(packed["jpeg"], packed["ends"][:-1])
        images = [np.asarray(Image.open(io.BytesIO(each.tobytes()))) for each in jpegs]
        return images, packed["label"], packed["domain"], f"real cells from {file.name}"


def train(args: argparse.Namespace) -> None:
    """Embed the cells, train both presets, and write what came of it."""
    deadline = time.monotonic() + args.seconds
    args.out.mkdir(parents=True, exist_ok=True)
    images, label, domain, what = read_cells(args.cells, args.tiny)
    start = time.perf_counter()
    embedder = SAMLoRAEmbedder("vit_tiny", keep=("tokens", "published_crops"), device=args.device)
    stored = embedder.fit_transform(images)
    cells = CellEmbeddings(*(np.asarray(getattr(stored, part)) for part in PARTS))
    seconds = time.perf_counter() - start
    embedder.free_network()
    print(f"{len(images)} {what}, {len(np.unique(domain))} laboratories; vit_tiny's token maps and crops in", end=" ")
    print(f"{seconds:.1f} s ({len(images) / seconds:,.1f} images/s). LR: balanced accuracy, mean over pairs.\n")
    line("features", "epochs", "s per epoch", "of which making batches", "loss, first -> last epoch", "LR")
    line(*["---"] * 6)
    features = {"label": label, "domain": domain, "pooled": standardise(cells.pooled, domain)}
    line("pooled, standardised by laboratory", "", "", "", "", logistic_regression(features, "pooled"))
    histories = []
    for preset, share in SHARES.items():
        left = share * (deadline - time.monotonic()) - FOR_THE_REST
        autoencoder = CrossDomainAutoencoder(
            preset=preset, device=args.device, random_state=0, checkpoint=args.out / f"{preset}.ckpt",
            **SMALL if args.tiny else {},
        )  # fmt: skip
        epochs, making = fit_within(left, autoencoder, cells, domain)
        if not hasattr(autoencoder, "history_"):
            line(f"preset {preset}", 0, "", "", f"no epoch ended in {left:.0f} s", "")
            continue
        features[preset] = autoencoder.transform(cells)
        histories.append(autoencoder.history_.assign(preset=preset))
        loss, settings = autoencoder.history_["loss"], autoencoder.settings_
        # Blank where a checkpoint held all epochs already.
        times = (f"{statistics.median(epochs):.2f}", f"{making / sum(epochs):.0%}") if epochs else ("", "")
        line(
            f"preset {preset}", f"{len(loss)} of {settings.epochs}", *times,
            f"{loss.iloc[0]:.3f} -> {loss.iloc[-1]:.3f}", logistic_regression(features, preset),
        )  # fmt: skip
        np.savez_compressed(args.out / "features.npz", **features)
        pd.concat(histories).to_csv(args.out / "histories.csv", index=False)


def fit_within(
    seconds: float, autoencoder: CrossDomainAutoencoder, cells: CellEmbeddings, domain: np.ndarray
) -> tuple[list[float], float]:
    """Fit to the end or for so many seconds; return the seconds of each whole epoch, and of making all their batches.

    A fit that is interrupted keeps its whole epochs; before the end of the first one it leaves nothing.
    """
    run_epoch, make_batch = training._Run.epoch, NetworkInputs.batch
    epochs: list[float] = []
    making = {"so far": 0.0, "of whole epochs": 0.0}

    def epoch(*args: Any) -> None:
        start = time.perf_counter()
        run_epoch(*args)
        epochs.append(time.perf_counter() - start)
        making["of whole epochs"] = making["so far"]

    def batch(*args: Any) -> Any:
        start = time.perf_counter()
        made = make_batch(*args)
        making["so far"] += time.perf_counter() - start
        return made

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    training._Run.epoch, NetworkInputs.batch = epoch, batch
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Interrupted: keeping")
            autoencoder.fit(cells, domain=domain)
    except KeyboardInterrupt:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        training._Run.epoch, NetworkInputs.batch = run_epoch, make_batch
    return epochs, making["of whole epochs"]


def logistic_regression(features: dict[str, np.ndarray], name: str) -> str:
    """Return its balanced accuracy, trained in each laboratory and tested in the others."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    scores = _scores(features, name, {"LR": classifier})
    return f"{scores['balanced_accuracy'].mean():.3f}"


def score(file: Path) -> None:
    """Print the balanced accuracy of every classifier on every kind of features of a file."""
    with np.load(file) as stored:
        features = dict(stored)
    names = [name for name in features if name not in ("label", "domain")]
    scores = pd.concat([_scores(features, name).assign(features=name) for name in names])
    table = scores.pivot_table("balanced_accuracy", "features", "classifier", sort=False)
    print(table.assign(mean=table.mean(axis=1)).round(3).to_string())


def _scores(features: dict[str, np.ndarray], name: str, classifiers: dict[str, Any] | None = None) -> pd.DataFrame:
    label, domain = features["label"], features["domain"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of features of few epochs, on which classifiers do not converge
        rows = [
            row
            for source in np.unique(domain)
            for row in scores_of(features[name], label, domain, source, 0, classifiers)
        ]
    return pd.DataFrame(rows)


def line(*cells: Any) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
