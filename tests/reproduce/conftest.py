import gzip
import pickle

import pytest
from PIL import Image

from sam_bloodcell.datasets import make_blood_cells

# A code of each dataset for a synthetic class.
MATEK = {"neutrophil": "NGS", "lymphocyte": "LYT", "monocyte": "MON"}
ACEVEDO = {"neutrophil": "SNE", "lymphocyte": "LY", "monocyte": "MO"}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Synthetic stand-ins in the layouts of Matek-19 (TIFF with alpha, a folder a code) and Acevedo-20 (prefixes)."""
    root = tmp_path_factory.mktemp("papers")
    cells = make_blood_cells(8, classes=list(MATEK), random_state=0)
    for i, (image, code, domain) in enumerate(zip(cells.images, cells.target, cells.domain, strict=True)):
        name = cells.target_names[code]
        if domain == "lab_a":
            path = root / "matek" / "AML-Cytomorphology" / MATEK[name] / f"{MATEK[name]}_{i:04d}.tiff"
            picture = Image.fromarray(image).convert("RGBA")
        else:
            path = root / "acevedo" / name / f"{ACEVEDO[name]}_{i}.jpg"
            picture = Image.fromarray(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    return root / "matek", root / "acevedo"


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """Synthetic cells in the layout of the authors' Bloodcell_train.dat.gz."""
    cells = make_blood_cells(3, classes=["lymphocyte", "monocyte"], domains=["lab_a"], random_state=1)
    pairs = zip(cells.images, cells.masks, strict=True)
    content = {f"cell_{i}": {"image": image, "label": (mask > 0).astype(int)} for i, (image, mask) in enumerate(pairs)}
    path = tmp_path_factory.mktemp("masks") / "Bloodcell_train.dat.gz"
    with gzip.open(path, "wb") as file:
        pickle.dump(content, file)
    return path
