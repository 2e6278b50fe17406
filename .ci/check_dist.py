"""Look into the built wheel and sdist: what must be there is, what must not is not.

python .ci/check_dist.py dist
"""

import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

PACKAGED = {
    "py.typed",
    "reproduce/published_results.csv",
    "datasets/label_maps.csv",
    "datasets/sources.csv",
    "report/report.html.j2",
    "report/style.css",
    "weights/model_card.md",
    "weights/vit_tiny/encoder.safetensors",
    "weights/vit_tiny/adapter/adapter_config.json",
    "weights/vit_tiny/adapter/adapter_model.safetensors",
    "weights/vit_tiny/adapter/decoder.safetensors",
    "weights/vit_tiny/autoencoder/autoencoder.safetensors",
    "weights/vit_tiny/autoencoder/sam_bloodcell.json",
}
SOURCES = {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "constraints.txt", "pyproject.toml"}
IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".npy", ".npz", ".png", ".tif", ".tiff"}
DRAWN = "docs/figures/"  # our own drawings, no cells
LIMIT = 20_000_000  # bytes


def main(folder: Path) -> None:
    """Check the one wheel and the one sdist in `folder`; stop with a message at the first thing wrong."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}

    _present(wheel, {f"sam_bloodcell/{name}" for name in PACKAGED}, in_wheel)
    _present(sdist, SOURCES | {f"src/sam_bloodcell/{name}" for name in PACKAGED}, in_sdist)
    if not any(name.endswith("/licenses/LICENSE") for name in in_wheel):
        raise SystemExit(f"{wheel.name} has no licence.")
    if strangers := {name for name in in_wheel if not name.startswith(("sam_bloodcell/", "sam_bloodcell-"))}:
        raise SystemExit(f"{wheel.name} holds what is not ours to install: {sorted(strangers)}.")
    for path, names in (wheel, in_wheel), (sdist, in_sdist):
        images = {name for name in names if PurePosixPath(name).suffix in IMAGES and not name.startswith(DRAWN)}
        if images:
            raise SystemExit(f"{path.name} holds images: {sorted(images)[:5]}. No image of a cell is ever packaged.")
        if path.stat().st_size >= LIMIT:
            raise SystemExit(f"{path.name} has {path.stat().st_size:,} bytes but expected fewer than {LIMIT:,}.")
        print(f"{path.name}: {len(names)} entries, {path.stat().st_size / 1e6:.1f} MB")


def _present(path: Path, wanted: set[str], names: set[str]) -> None:
    if missing := wanted - names:
        raise SystemExit(f"{path.name} lacks {sorted(missing)}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
