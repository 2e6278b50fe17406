"""The layers of the package: each top-level module or package is in one layer, and imports only lower layers."""

import ast
from pathlib import Path

import pytest

import sam_bloodcell

PACKAGE = Path(sam_bloodcell.__file__).parent

# From the top down. Modules and packages of one layer do not import each other.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("reproduce",),
    ("report",),
    ("plotting", "classification"),
    ("evaluation",),
    ("bulk", "morphology", "published"),
    ("alignment",),
    ("embedding",),
    ("segmentation",),
    ("weights",),
    ("datasets",),
    ("synthetic", "models"),
    ("images",),
    ("files", "cells", "extras"),
    ("exceptions",),
)
DEPTH = {part: depth for depth, layer in enumerate(LAYERS) for part in layer}
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(path):
    """Return the top-level module or package of a file."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """Yield the modules of this package that a file imports, as dotted names below the package."""
    folder = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) - node.level + 1]
            target = [*base, *(node.module.split(".") if node.module else [])]
            yield from [".".join(target)] if target else [alias.name for alias in node.names]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_lower_layers_only(path):
    part = part_of(path)
    for module in imported(path):
        other = module.split(".")[0]
        assert other == part or DEPTH[other] > DEPTH[part], f"{part} imports {other}, which is not in a lower layer"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_modules_stay_in_their_package(path):
    for module in imported(path):
        private = [part for part in module.split(".") if part.startswith("_")]
        assert not private or module.split(".")[0] == part_of(path), f"{path.name} imports {module}"


def test_no_modules_import_each_other_in_a_circle():
    graph = {}
    for path in SOURCES:
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = set(imported(path)) - {name}
    done = set()

    def visit(name, trail):
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for other in sorted(graph.get(name, ())):
                visit(other, [*trail, name])
            done.add(name)

    for name in graph:
        visit(name, [])


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("models/*.py")), ids=lambda path: path.name)
def test_models_import_torch_only(path):
    tops = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            tops |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            tops.add(node.module.split(".")[0])
    assert not tops & {"sklearn", "pandas", "PIL", "huggingface_hub", "safetensors"}


def test_the_top_level_stays_small():
    assert len(list(PACKAGE.glob("*.py"))) <= 10


def body_lines(function):
    """Return the number of lines from the first statement after the docstring to the last one."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 450
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert {function.name: body_lines(function) for function in functions if body_lines(function) > 50} == {}


def test_the_table_in_contributing_has_the_first_sentences_of_the_docstrings():
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text("utf-8")
    for part in DEPTH:
        if part.startswith("__"):
            continue
        path = PACKAGE / part
        name = f"{part}/" if path.is_dir() else f"{part}.py"
        docstring = ast.get_docstring(
            ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8"))
        )
        first = " ".join(docstring.split("\n\n")[0].split()).removesuffix(".")
        assert f"| `{name}` | {first} |" in text
