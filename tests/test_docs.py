"""What the docs show as Python runs, top to bottom, in a folder of its own."""

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from sam_bloodcell.datasets import make_blood_cells, save_cells
from sam_bloodcell.models.sam import SAM, SAM_MASK_TOKENS, SIZES

DOCS = Path(__file__).parents[1] / "docs"
IN_A_FOLDER = "import os, sys\nos.chdir(sys.argv[1])\n"


def python_blocks(page):
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


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


@pytest.mark.filterwarnings("ignore:.*look like copies", "ignore:CrossDomainAutoencoder", "ignore:.*one domain")
def test_the_page_on_own_laboratories_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_cells(make_blood_cells(6, classes=["lymphocyte", "monocyte"], random_state=0), tmp_path / "cells")
    (tmp_path / "cells" / "cells.csv").unlink()
    _, own_estimators, new_laboratory = python_blocks(DOCS / "own_laboratories.md")
    names = {}
    exec(own_estimators, names)
    assert names["predictions"]["classifier"].unique().tolist() == ["plain", "aligned"]
    assert len(names["predictions"]) == 2 * (24 + 5 * 24)
    features = np.asarray(names["embeddings"])
    names |= {"features": features, "labels": names["cells"].target, "new_features": features[:2]}
    exec(new_laboratory, names)
    assert names["classifier"].predict(features).shape == (24,)
