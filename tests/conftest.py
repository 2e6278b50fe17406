import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch comes in: each worker takes one core, and so do its children
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tests.file_server import file_server  # noqa: F401, a fixture
from tests.hub_server import HubServer
from tests.weights import cellpose_tokens
from tests.weights.timm_tokens import weights

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # before scipy comes in: scikit-learn's check of array APIs needs it

from sam_bloodcell.embedding import base
from sam_bloodcell.embedding.store import EmbeddingStore
from sam_bloodcell.models._segment_anything import modeling
from sam_bloodcell.models.sam import SAM, SIZES, EncoderSize

TINY = EncoderSize(width=32, depth=2, heads=2, global_blocks=(1,))

torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--image-cases", type=int, default=6000, help="damaged image files to try")
    parser.addoption("--gpu", default="cuda", help="device for the tests marked cuda; 'cpu' tries the tests themselves")


# Packages and test files that run a network on images or a whole pipeline.
INTEGRATION = {"classification", "cli", "embedding", "report", "reproduce"}
INTEGRATION |= {"test_bulk.py", "test_domain_travels.py", "test_faults.py", "test_golden.py", "test_pipeline.py"}


@pytest.hookimpl(tryfirst=True)  # before the option -m selects by marks
def pytest_collection_modifyitems(config, items):
    """Mark integration tests and examples, and leave out tests that need a CUDA device where there is none."""
    for item in items:
        if INTEGRATION.intersection((item.path.parent.name, item.path.name)):
            item.add_marker(pytest.mark.integration)
    if config.getoption("--gpu") == "cpu" or torch.cuda.is_available():
        return
    left_out = [item for item in items if "cuda" in item.keywords]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if "cuda" not in item.keywords]


COUNTED = {"fault": "faults survived", "bad_argument": "bad arguments refused by their names"}


def pytest_terminal_summary(terminalreporter):
    """Print what tests measured (`record_property("figure", text)`), and how many passed of those that are counted."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    figures = [text for report in reports for name, text in report.user_properties if name == "figure"]
    passed = [report for report in terminalreporter.stats.get("passed", []) if report.when == "call"]
    counts = {told: sum(mark in report.keywords for report in passed) for mark, told in COUNTED.items()}
    figures += [f"{count} {told}" for told, count in counts.items() if count]
    if figures:
        terminalreporter.section("figures")
        for text in sorted(figures):
            terminalreporter.line(text)


def _randomise(module, seed=0):
    """Seeded values everywhere: SAM's own start leaves position tables and biases at zero, hiding mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_gain = parameter.ndim == 1 and name.endswith("weight")
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
            parameter.copy_(1 + 0.1 * noise if is_gain else noise / fan_in**0.5)
    return module.eval()


@pytest.fixture
def separable():
    """Features, labels and domains of two laboratories, three classes of ten cells each, easy to tell apart."""
    rng = np.random.default_rng(0)
    y = np.tile(["lymphocyte", "monocyte", "neutrophil"], 20)
    X = rng.normal(size=(60, 4)) + 8 * np.eye(4)[np.unique(y, return_inverse=True)[1]]
    return X, y, np.repeat(["a", "b"], 30)


@pytest.fixture(autouse=True)
def _own_memory(monkeypatch):
    """No test is served what another one embedded."""
    monkeypatch.setattr(base, "MEMORY", EmbeddingStore())


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def gpu(request):
    """Return the device for a test marked cuda, as users name it: "cuda", or what `--gpu` asks for."""
    return request.config.getoption("--gpu")


@pytest.fixture(scope="session")
def vit_file(tmp_path_factory):
    """Return a file with a random plain ViT, 64 wide with two blocks, under DINOv2's own names."""
    from tests.weights.test_vit_names import OWN

    path = tmp_path_factory.mktemp("vit") / "pytorch_model_s.bin"
    torch.save(OWN, path)
    return path


@pytest.fixture
def tiny_sam():
    """Return a maker of random SAMs, 32 wide with two blocks, at 64 px unless told."""

    def make(image_size=64, mask_tokens=2, seed=0, size=TINY):
        return _randomise(SAM(size, image_size, mask_tokens), seed)

    return make


@pytest.fixture
def cellpose_file(tmp_path, monkeypatch):
    """Return a file as Cellpose-SAM's, in torch's format and without a suffix, of a narrow network."""
    monkeypatch.setitem(SIZES, "under test", TINY)
    torch.save(weights(json.loads(cellpose_tokens.PATH.read_text("utf-8"))["shapes"]), tmp_path / "cpsam")
    return tmp_path / "cpsam"


@pytest.fixture
def randomise():
    """Return a filler of any module's parameters with seeded values, in place."""
    return _randomise


@pytest.fixture(scope="session")
def build_sam():
    """Return segment-anything's own ``build_sam`` module, loaded without its package, which needs torchvision."""
    package = ModuleType("original_segment_anything")
    package.__path__ = [str(Path(modeling().__file__).parents[1])]
    sys.modules[package.__name__] = package
    return import_module(f"{package.__name__}.build_sam")


@pytest.fixture
def cells_root():
    """Return the folder of the real cells, or skip."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("SAM_BLOODCELL_DATA", beside))
    if not (root / "cells.csv").is_file():
        pytest.skip(f"no real cells: '{root}/cells.csv' does not exist; set SAM_BLOODCELL_DATA to their folder")
    return root


@pytest.fixture
def hub_server(tmp_path):
    """Run a Hub on 127.0.0.1."""
    server = HubServer(tmp_path / "served")
    yield server
    server.close()


@pytest.fixture
def in_subprocess(tmp_path):
    """Return a runner of Python code with a Hub cache of its own: the client reads its settings once, at import."""

    def run(code, *arguments, home=tmp_path / "home", **env):
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        settings = {
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_XET": "1",
        }
        result = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=inherited | settings | env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run
