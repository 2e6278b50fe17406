"""Saved, shared and pickled: what comes back says the same, and brings nothing that it need not."""

import json
import pickle
import re
import zipfile
from functools import partial
from os import remove

import joblib
import numpy as np
import pytest
import skops.io
import torch
from safetensors.torch import save_file
from sklearn.datasets import clear_data_home
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, minmax_scale
from sklearn.svm import SVC
from sklearn.utils._testing import assert_run_python_script_without_output
from tests.hub_server import COMMIT

from sam_bloodcell import (
    CrossDomainAutoencoder,
    SAMLoRAEmbedder,
    WeightsUnavailableError,
    files,
    from_pretrained,
    save_pretrained,
)
from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.evaluation import AbstainingClassifier
from sam_bloodcell.models.sam import SAM, SAM_MASK_TOKENS, SIZES
from sam_bloodcell.morphology import CellMorphology
from sam_bloodcell.segmentation import LoRATraining
from sam_bloodcell.weights.backbones import HUB_BACKBONES

# Images alone bring no domain; pipelines that know it are tested in tests/test_domain_travels.py.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The domain of .* cells is unknown", "ignore:fit_transform used domain only in fit"
)


@pytest.fixture(scope="module")
def cells():
    return make_blood_cells(4, classes=("eosinophil", "lymphocyte"), random_state=0)


def line(embedder):
    return make_pipeline(embedder, CrossDomainAutoencoder(8, epochs=1, batch_size=8, random_state=0), SVC())


@pytest.fixture(scope="module")
def fitted(cells):
    pipe = line(SAMLoRAEmbedder("vit_tiny"))
    return pipe.fit(cells.images, cells.target, crossdomainautoencoder__domain=cells.domain)


def _same(pipe, other, images):
    np.testing.assert_array_equal(other.decision_function(images), pipe.decision_function(images))


def test_a_pipeline_comes_back(fitted, cells, tmp_path):
    folder = save_pretrained(fitted, tmp_path / "pipe", metrics={"accuracy": 0.9}, data="synthetic cells")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "pipeline.skops"]
    _same(fitted, from_pretrained(folder), cells.images)
    card = (folder / "README.md").read_text()
    assert "SAMLoRAEmbedder -> CrossDomainAutoencoder -> SVC" in card
    assert 'cells = pd.DataFrame({"path": paths, "domain": "name of the laboratory"})\npipeline.predict(cells)' in card
    assert "- Base weights: vit_tiny\n" in card


def test_plain_skops_lists_our_two_classes_and_no_other(fitted, cells, tmp_path):
    skops.io.dump(fitted, tmp_path / "pipe.skops")
    untrusted = skops.io.get_untrusted_types(file=tmp_path / "pipe.skops")
    assert untrusted == [
        "sam_bloodcell.alignment.autoencoder.CrossDomainAutoencoder",
        "sam_bloodcell.embedding.embedder.SAMLoRAEmbedder",
    ]
    _same(fitted, skops.io.load(tmp_path / "pipe.skops", trusted=untrusted), cells.images)


def test_every_estimator_of_this_package_is_trusted(tmp_path):
    features = make_union(line(SAMLoRAEmbedder(training=LoRATraining(rank=8)))[:-1], CellMorphology())
    skops.io.dump(make_pipeline(features, AbstainingClassifier(SVC())), tmp_path / "pipeline.skops")
    back = from_pretrained(tmp_path)
    assert back.get_params()["featureunion__pipeline__samloraembedder__training__rank"] == 8


def test_foreign_classes_are_listed_until_trusted(tmp_path):
    pipe = make_pipeline(FunctionTransformer(json.dumps)).fit([[1]])
    save_pretrained(pipe, tmp_path)
    with pytest.raises(
        ValueError, match=r"types that are not trusted: json\.dumps\. Fix: .*name these types as trusted"
    ):
        from_pretrained(tmp_path)
    assert from_pretrained(tmp_path, trusted=["json.dumps"]).steps[0][1].func is json.dumps


@pytest.mark.parametrize("scoring", [None, "balanced_accuracy"])
def test_a_search_needs_no_trust_beyond_scikit_learn(scoring, tmp_path):
    X, y = np.arange(12.0)[:, None], np.arange(12) % 2
    line = make_pipeline(FunctionTransformer(minmax_scale), SelectKBest(f_classif, k=1), KNeighborsClassifier())
    search = GridSearchCV(line, {"selectkbest__k": [1, "all"]}, cv=2, scoring=scoring).fit(X, y)
    back = from_pretrained(save_pretrained(search, tmp_path))
    assert back.predict(X).tolist() == search.predict(X).tolist()


@pytest.mark.parametrize("function", [assert_run_python_script_without_output, clear_data_home, files.remove, remove])
def test_functions_that_could_do_harm_are_not_trusted(function, tmp_path):
    """Also not scikit-learn's or ours: one of them runs code that it is given, the others delete files."""
    save_pretrained(FunctionTransformer(function).fit([[1]]), tmp_path)
    name = f"{function.__module__}.{function.__qualname__}"
    with pytest.raises(ValueError, match=rf"types that are not trusted: {re.escape(name)}\. Fix:"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["sklearn.partial", "sklearn.no_such_module.SVC", "sklearn.datasets._base.Path"])
def test_what_only_looks_like_scikit_learn_is_not_trusted(name, tmp_path):
    """A file may say of anything in it that its class has such a name."""
    save_pretrained(FunctionTransformer(partial(minmax_scale, axis=1)).fit([[1]]), tmp_path)
    with zipfile.ZipFile(tmp_path / "pipeline.skops") as archive:
        contents = {entry: archive.read(entry).decode() for entry in archive.namelist()}
    module, _, kind = name.rpartition(".")
    told = contents["schema.json"].replace('"__module__": "functools"', f'"__module__": "{module}"')
    contents["schema.json"] = told.replace('"__class__": "partial"', f'"__class__": "{kind}"')
    with zipfile.ZipFile(tmp_path / "pipeline.skops", "w") as archive:
        for entry, content in contents.items():
            archive.writestr(entry, content)
    with pytest.raises(ValueError, match=rf"types that are not trusted: {re.escape(name)}\. Fix:"):
        from_pretrained(tmp_path)


def test_bad_sources_are_named(fitted, tmp_path):
    with pytest.raises(NotFittedError):
        save_pretrained(line(SAMLoRAEmbedder("vit_tiny")), tmp_path)
    with pytest.raises(
        WeightsUnavailableError, match=r"the folder of a saved pipeline: it lacks pipeline\.skops\. Fix:"
    ):
        from_pretrained(tmp_path)
    with pytest.raises(WeightsUnavailableError, match=r"folder of a saved autoencoder: it lacks sam_bloodcell\.json"):
        CrossDomainAutoencoder.from_pretrained(tmp_path)
    fitted[0].save_pretrained(tmp_path)
    (tmp_path / "autoencoder.safetensors").touch()
    with pytest.raises(
        WeightsUnavailableError, match=r"does not contain an autoencoder\. Fix: pass a folder made by save_pretrained"
    ):
        CrossDomainAutoencoder.from_pretrained(tmp_path)


def test_an_autoencoder_comes_back_to_the_bit(fitted, cells, tmp_path):
    embeddings = fitted[0].transform(cells.images)
    fitted[1].save_pretrained(tmp_path)
    back = CrossDomainAutoencoder.from_pretrained(tmp_path)
    assert back.get_params() == fitted[1].get_params()
    assert back.domains_.tolist() == ["lab_a", "lab_b"]
    np.testing.assert_array_equal(back.transform(embeddings), fitted[1].transform(embeddings))
    np.testing.assert_array_equal(back.reconstruct(embeddings), fitted[1].reconstruct(embeddings))
    assert back.history_.equals(fitted[1].history_)
    assert "Laboratories seen in training: lab_a, lab_b" in (tmp_path / "README.md").read_text()


def test_an_autoencoder_with_numpy_parameters_comes_back(fitted, cells, tmp_path):
    embeddings = fitted[0].transform(cells.images)
    params = {"n_components": np.int64(4), "epochs": np.int64(1), "alignment_weight": np.float32(5)}
    autoencoder = CrossDomainAutoencoder(**params, random_state=np.int64(0)).fit(embeddings, domain=cells.domain)
    back = CrossDomainAutoencoder.from_pretrained(autoencoder.save_pretrained(tmp_path))
    assert back.get_params() == autoencoder.get_params()


PUSHED = """
import sys
import joblib, numpy as np
from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder, from_pretrained, push_to_hub

pipe = joblib.load(sys.argv[1])
images = np.load(sys.argv[2])
if sys.argv[3] == "push":
    push_to_hub(pipe, "lab/pipe", metrics={"accuracy": 0.9})
    pipe[0].push_to_hub("lab/adapter")
    pipe[1].push_to_hub("lab/autoencoder")
expected = pipe[0].transform(images)
embedder = SAMLoRAEmbedder.from_pretrained("lab/adapter")
np.testing.assert_array_equal(np.asarray(embedder.transform(images)), np.asarray(expected))
autoencoder = CrossDomainAutoencoder.from_pretrained("lab/autoencoder")
np.testing.assert_array_equal(autoencoder.transform(expected), pipe[1].transform(expected))
back = from_pretrained("lab/pipe")
np.testing.assert_array_equal(back.decision_function(images), pipe.decision_function(images))
"""


@pytest.mark.slow
def test_all_three_are_pushed_and_come_back_also_offline(fitted, cells, hub_server, in_subprocess, tmp_path):
    joblib.dump(fitted, tmp_path / "pipe.joblib")
    np.save(tmp_path / "images.npy", cells.images[:4])
    files = (tmp_path / "pipe.joblib", tmp_path / "images.npy")
    in_subprocess(PUSHED, *files, "push", HF_ENDPOINT=hub_server.url, HF_TOKEN="hf_write")
    before = len(hub_server.asked)
    in_subprocess(PUSHED, *files, "pull", HF_ENDPOINT=hub_server.url, HF_HUB_OFFLINE="1")
    assert len(hub_server.asked) == before


def test_states_hold_arrays_and_plain_values_alone(fitted, cells):
    tuned = SAMLoRAEmbedder("vit_tiny", image_size=64, training=LoRATraining(epochs=1, random_state=0, checkpoint=None))
    tuned.fit(cells.images[:4], masks=cells.masks[:4])
    for estimator in (tuned, fitted[1]):
        names = {line.split()[-1] for line in _globals(pickle.dumps(estimator))}
        assert not {name for name in names if name.split(".")[0] in ("torch", "pandas", "peft", "pathlib")}, names
        back = pickle.loads(pickle.dumps(estimator))
        assert back.history_.equals(estimator.history_)


def _globals(pickled):
    """Yield the classes and functions that a pickle names."""
    import pickletools

    strings = []
    for code, value, _ in pickletools.genops(pickled):
        if code.name in ("SHORT_BINUNICODE", "BINUNICODE"):
            strings.append(value)
        elif code.name == "STACK_GLOBAL":
            yield f"{strings[-2]}.{strings[-1]}"
        elif code.name == "GLOBAL":
            yield value.replace(" ", ".")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_fitted_on_cuda_loads_on_cpu(fitted, cells):
    state = fitted[0].__getstate__() | {"device": "cuda"}
    embedder = SAMLoRAEmbedder.__new__(SAMLoRAEmbedder)
    embedder.__setstate__(state)
    with pytest.raises(ValueError, match=r"torch sees no CUDA device\. Fix: device='auto'"):
        embedder.transform(cells.images[:1])
    embedder.set_params(device="auto")
    np.testing.assert_array_equal(
        np.asarray(embedder.transform(cells.images[:1])), np.asarray(fitted[0].transform(cells.images[:1]))
    )


FIT_VIT_B = """
import sys
import joblib, numpy as np
from sklearn.pipeline import make_pipeline, make_union
from sklearn.svm import SVC
from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.segmentation import LoRATraining

cells = np.load(sys.argv[1])
training = LoRATraining(epochs=1, random_state=0)
embedder = SAMLoRAEmbedder("vit_b", image_size=64, dtype="float32", training=training)
embedder.fit(cells["images"][:2], masks=cells["masks"][:2])
embeddings = embedder.transform(cells["images"])
autoencoder = CrossDomainAutoencoder(epochs=1, batch_size=8, random_state=0).fit(embeddings)
classifier = SVC().fit(autoencoder.transform(embeddings), cells["target"])
pipe = make_pipeline(embedder, autoencoder, classifier)
joblib.dump(pipe, sys.argv[2])
np.save(sys.argv[3], pipe.decision_function(cells["images"]))
"""
LOAD_VIT_B = """
import sys
import joblib, numpy as np

pipe = joblib.load(sys.argv[2])
assert len(pipe[0].backbone_.digest) == 64
try:
    values = pipe.decision_function(np.load(sys.argv[1])["images"])
    np.testing.assert_allclose(values, np.load(sys.argv[3]), atol=1e-5)
    print("same")
except OSError as error:
    print(error)
"""


@pytest.mark.network
def test_real_vit_b_segments_a_cell_in_the_middle():
    """Runs where the Hub is reachable: pytest -m network. Fetches 375 MB."""
    cells = make_blood_cells(2, domains=["lab_a"], random_state=0)
    embedder = SAMLoRAEmbedder("vit_b").fit(cells.images)
    assert embedder.prompt_ == "center"
    assert embedder.backbone_.revision == HUB_BACKBONES["vit_b"][1]
    found = embedder.predict_masks(cells.images)
    dice = [2 * (a & (b > 0)).sum() / (a.sum() + (b > 0).sum()) for a, b in zip(found, cells.masks, strict=True)]
    assert np.mean(dice) > 0.5


@pytest.mark.slow
def test_a_vit_b_pipeline_is_small_and_needs_its_base_in_the_cache_alone(cells, hub_server, in_subprocess, tmp_path):
    served = hub_server.folder("facebook/sam-vit-base") / "model.safetensors"
    save_file(SAM(SIZES["vit_b"], 1024, SAM_MASK_TOKENS).state_dict(), served)
    np.savez(tmp_path / "cells.npz", images=cells.images[::2], masks=cells.masks[::2], target=cells.target[::2])
    files = [tmp_path / name for name in ("cells.npz", "pipe.joblib", "values.npy")]
    in_subprocess(FIT_VIT_B, *files, HF_ENDPOINT=hub_server.url)
    assert files[1].stat().st_size < 40e6
    assert in_subprocess(LOAD_VIT_B, *files, HF_HUB_OFFLINE="1").strip() == "same"
    said = in_subprocess(LOAD_VIT_B, *files, HF_HUB_OFFLINE="1", home=tmp_path / "elsewhere")
    assert "model.safetensors of 'facebook/sam-vit-base' (revision 0123456789abcdef" in said
    assert f"Fix: run sam-bloodcell download vit_b --revision {COMMIT} once with network" in said
