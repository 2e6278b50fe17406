"""What the docs show as Python runs, top to bottom, in a folder of its own; the messages that they explain are real."""

import ast
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

import sam_bloodcell
from sam_bloodcell import datasets, evaluation
from sam_bloodcell.cli import app
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells
from sam_bloodcell.evaluation import benchmark
from sam_bloodcell.models.sam import SAM, SAM_MASK_TOKENS, SIZES

README = Path(__file__).parents[1] / "README.md"
DOCS = README.parent / "docs"
SOURCE = Path(sam_bloodcell.__file__).parent
IN_A_FOLDER = "import os, sys\nos.chdir(sys.argv[1])\n"

# Pages whose blocks need nothing but the package.
SELF_CONTAINED = (
    "design.md", "encoders.md", "howto/embeddings.md", "howto/few_labels.md", "howto/masks.md",
    "howto/new_laboratory.md", "howto/own_encoder.md", "howto/search.md", "howto/smoothing.md",
    "howto/without_images.md",
)  # fmt: skip
# Pages with a test of their own below, and the one that needs a Dask scheduler: tests/test_cluster.py has a real one.
SPECIAL = ("index.md", "method.md", "own_laboratories.md", "weights.md", "scale.md")


def python_blocks(page):
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def sh_blocks(page):
    return re.findall(r"^```sh\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a runner of code in an empty folder; scikit-learn's configuration is as before afterwards."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small networks, thousands of steps: threads that wait for one another cost more

    def execute(code, **names):
        with sklearn.config_context():
            exec(code, names)
        return names

    yield execute
    torch.set_num_threads(threads)


def test_no_page_with_python_is_forgotten():
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if not page.is_relative_to(DOCS / "_build")}
    assert {page for page in pages if python_blocks(DOCS / page)} == {*SELF_CONTAINED, *SPECIAL}


@pytest.mark.slow
@pytest.mark.parametrize("page", SELF_CONTAINED)
def test_the_page_runs(page, run):
    run("\n".join(python_blocks(DOCS / page)))


@pytest.mark.slow
@pytest.mark.parametrize("page", [README, DOCS / "index.md"], ids=["README", "index"])
def test_the_first_page_runs(page, run):
    classes = ["lymphocyte", "monocyte"]
    save_cells(make_blood_cells(10, classes=classes, random_state=0), "cells")
    cells = load_cells(save_cells(make_blood_cells(10, classes=classes, domains=["lab_c"], random_state=0), "new"))
    Path("lyon").mkdir()
    for path in cells.paths:
        Path(path).rename(Path("lyon", Path(path).name))
    names = run("\n".join(python_blocks(page)))
    assert len(names["answers"]) == 20
    assert set(names["answers"]["predicted"]) == set(classes)


@pytest.mark.slow
def test_the_four_commands_of_the_readme_run(tmp_path, monkeypatch):
    """As they stand: train on two laboratories, predict a third, and see the wrong answers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark, "default_classifiers", lambda seed: {"LR": LogisticRegression(max_iter=2000)})
    made = make_blood_cells(10, classes=["lymphocyte", "monocyte"], domains=["lab_a", "lab_b", "lab_c"], random_state=0)
    save_cells(made, "cells")
    Path("cells/cells.csv").unlink()
    Path("cells/lab_c").rename("lyon")
    wrong = sorted(Path("lyon/lymphocyte").glob("*[0-9].png"))[0]
    wrong = wrong.rename(f"lyon/monocyte/{wrong.name}")  # a cell in the folder of another class
    for command in sh_blocks(README)[2].splitlines():
        program, *arguments = shlex.split(command)
        assert program == "sam-bloodcell"
        result = CliRunner().invoke(app, [*arguments, *(["--quiet"] if "check" not in arguments else [])])
        assert result.exit_code == 0, result.output
    written = ("report.html", "benchmark_predictions.csv", "model/pipeline.skops")
    for path in (*(Path("out", name) for name in written), Path("model/pipeline.skops")):
        assert path.stat().st_size > 0, path
    table = pd.read_csv("predictions.csv")
    mistakes = table[table["label"] != table["predicted"]]
    assert str(wrong) in mistakes["path"].tolist()
    assert Path("predictions_mistakes.png").stat().st_size > 0


@pytest.mark.parametrize("page", [README, *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)[^)]*\)", page.read_text())
    built = {page.parent / link for link in links if "auto_examples" in link}  # made by the docs build
    assert [link for link in links if not (page.parent / link).exists() and page.parent / link not in built] == []


@pytest.mark.slow
def test_the_page_on_weights_runs(hub_server, in_subprocess, tmp_path):
    """With random weights in the place of ViT-B's: the Hub is one on 127.0.0.1."""
    served = hub_server.folder("facebook/sam-vit-base") / "model.safetensors"
    save_file(SAM(SIZES["vit_b"], 1024, SAM_MASK_TOKENS).state_dict(), served)
    code = "\n".join(python_blocks(DOCS / "weights.md"))
    assert all(f'SAMLoRAEmbedder("{name}"' in code for name in ("vit_tiny", "vit_b"))
    assert "from_pretrained(" in code
    in_subprocess(IN_A_FOLDER + code, tmp_path, HF_ENDPOINT=hub_server.url)
    made = {path.name for path in tmp_path.iterdir()}
    assert {"my-adapter", "my-pipeline", "finetuning.ckpt"} <= made


@pytest.mark.filterwarnings(
    "ignore:Pairs of images that look duplicated",
    "ignore:CrossDomainAutoencoder",
    "ignore:.*one domain",
    "ignore:Every group is one cell",
)
def test_the_page_on_own_laboratories_runs(run):
    cells_to_try, _, own_estimators, new_laboratory = python_blocks(DOCS / "own_laboratories.md")
    run(cells_to_try)
    Path("cells/cells.csv").unlink()  # the folders alone must do
    names = run(own_estimators)
    assert names["predictions"]["classifier"].unique().tolist() == ["plain", "aligned"]
    assert len(names["predictions"]) == 2 * (24 + 5 * 24)
    features = np.asarray(names["embeddings"])
    names |= {"features": features, "labels": names["cells"].target, "new_features": features[:2]}
    names = run(new_laboratory, **names)
    assert names["classifier"].predict(features).shape == (24,)


@pytest.mark.slow
def test_the_page_on_the_method_runs(run):
    (in_a_pipeline,) = python_blocks(DOCS / "method.md")
    imports = """
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
"""
    cells = load_cells(save_cells(make_blood_cells(12, classes=["lymphocyte", "monocyte"], random_state=0), "cells"))
    new = {"new_paths": cells.paths[:20], "new_laboratory": ["new"] * 20}
    run(imports + in_a_pipeline, paths=cells.paths, labels=cells.target, laboratory=cells.domain, **new)


def test_tables_are_those_of_their_files():
    writer = runpy.run_path(str(DOCS / "tables" / "write.py"))
    pages = [page.read_text() for page in writer["PAGES"]]
    marked = re.findall(r"<!-- table: (\w+) -->", "".join(pages))
    assert sorted(marked) == sorted(writer["TABLES"])
    assert [writer["written"](page) for page in pages] == pages


def test_every_public_name_is_in_the_reference():
    page = (DOCS / "api.rst").read_text()
    names = {name for module in (sam_bloodcell, datasets, evaluation) for name in module.__all__} - {"__version__"}
    assert {name for name in names if name not in page} == set()


def messages():
    """All texts of the source, with three dots in the place of what is filled in."""
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)  # noqa: PD011, of the syntax tree
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_messages_explained_are_the_ones_raised():
    explained = re.findall(r"^```text\n(.*?)\n```\n\n(.*?)$", (DOCS / "errors.md").read_text(), flags=re.MULTILINE)
    ours = [message for message, cause in explained if not cause.startswith("scikit-learn's")]
    assert len(ours) > 15
    texts = "\n".join(messages())
    assert [message for message in ours if message not in texts] == []
