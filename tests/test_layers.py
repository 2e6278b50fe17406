"""CONTRIBUTING's map of the house: imports only point down."""

import ast
from pathlib import Path

import pytest

import sam_bloodcell

PACKAGE = Path(sam_bloodcell.__file__).parent

# From the top down; a room may import its own layer, but for the two estimators.
LAYERS = (
    {"cli", "__main__"},
    {"reproduce", "doctor"},
    {"pretrained", "report", "plotting", "bulk", "evaluation", "morphology"},
    {"embedder", "autoencoder"},
    {"forward"},
    {"cache"},
    {"stored"},
    {
        "embeddings",
        "cells",
        "domains",
        "segmentation",
        "reconstruction",
        "pseudo_masks",
        "training",
        "devices",
        "published",
        "hub",
    },
    {"model_card", "remote"},
    {"models"},
    {"datasets"},
    {"images", "files"},
)
ROOMS = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer(room):
    return next(depth for depth, rooms in enumerate(LAYERS) if room in rooms)


def imported_rooms(path):
    package_depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == package_depth:
            yield from [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room = room_of(path)
    for other in imported_rooms(path):
        assert layer(other) >= layer(room), f"{room} imports {other}, which lies above it"
        assert {room, other} != {"embedder", "autoencoder"}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("models/*.py")), ids=lambda path: path.name)
def test_models_know_torch_only(path):
    tops = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            tops |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            tops.add(node.module.split(".")[0])
    assert not tops & {"sklearn", "pandas", "PIL", "huggingface_hub", "safetensors"}


def test_the_map_in_contributing_names_every_room():
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    public = {room_of(path) for path in ROOMS if not room_of(path).startswith("_")}
    missing = {room for room in public if f"`{room}.py`" not in text and f"`{room}/`" not in text}
    assert not missing
