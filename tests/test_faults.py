"""Kills, Ctrl-C, forks, full disks and folders that may not be written to: nothing hangs, nothing is half-written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.counting import passes

from sam_bloodcell.datasets import make_blood_cells, save_cells

pytestmark = pytest.mark.fault
ROOT = Path(__file__).parents[1]
PATIENCE = 180  # seconds after which a process counts as hung


def run(code, *arguments, prefix=(), timeout=PATIENCE, **env):
    """Run Python code in a process of its own and return what it said."""
    command = [*prefix, sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    settings = os.environ | {"PYTHONPATH": str(ROOT)} | env
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT)


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return save_cells(make_blood_cells(8, random_state=0), tmp_path_factory.mktemp("cells"))


FORKED = """
import os, sys
import numpy as np
from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.embedding import store
from sam_bloodcell.datasets import make_blood_cells
images = make_blood_cells(1, domains=["lab_a"], random_state=0).images
embedder = SAMLoRAEmbedder("vit_tiny", dtype=sys.argv[1]).fit(images)
expected = embedder.transform(images).pooled
child = os.fork()
if child == 0:
    store.MEMORY.clear()
    os._exit(0 if np.allclose(embedder.transform(images).pooled, expected, atol=0.02) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_a_forked_process_computes_on(dtype):
    """OpenMP's threads do not survive a fork: without care the child waits for them for ever."""
    done = run(FORKED, dtype, OMP_NUM_THREADS="2")
    assert done.stdout == "0\n", done.stderr


FORKED_FOR_SOMETHING_ELSE = """
import os, torch
import sam_bloodcell
child = os.fork()
if child == 0:
    os._exit(torch.get_num_threads())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_importing_the_package_changes_nothing_in_forked_processes():
    done = run(FORKED_FOR_SOMETHING_ELSE, OMP_NUM_THREADS="2", MKL_NUM_THREADS="2")
    assert done.stdout == "2\n", done.stderr


SPAWNED = """
import multiprocessing, sys
import numpy as np
from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells

if __name__ == "__main__":
    images = make_blood_cells(1, domains=["lab_a"], random_state=0).images
    embedder = SAMLoRAEmbedder("vit_tiny").fit(images)
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        parts = pool.map(embedder.transform, [images[:3], images[3:]])
    both = np.concatenate([part.pooled for part in parts])
    print(np.allclose(both, embedder.transform(images).pooled, atol=0.02))
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_pools_of_every_kind(tmp_path, method):
    script = tmp_path / "pool.py"
    script.write_text(SPAWNED)
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = run(code, script, method) if method == "fork" else subprocess.run(
        [sys.executable, "-W", "ignore", script, method],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.stdout == "True\n", done.stderr


NESTED = """
import joblib, os, torch
from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells
images = make_blood_cells(1, domains=["lab_a"], random_state=0).images
embedder = SAMLoRAEmbedder("vit_tiny", n_jobs=2).fit(images)

def fold(rows):
    return embedder.transform(rows).shape[0], torch.get_num_threads()

for backend in ("loky", "threading"):
    with joblib.parallel_config(backend):
        done = joblib.Parallel(2)(joblib.delayed(fold)(images[start::2]) for start in range(2))
    print(backend, [n for n, _ in done], sum(threads for _, threads in done) if backend == "loky" else "")
"""


@pytest.mark.slow
def test_jobs_in_jobs_neither_hang_nor_take_more_cores_than_there_are():
    env = {name: "" for name in os.environ if name.endswith("NUM_THREADS")}
    done = run("import os\n" + "".join(f"os.environ.pop({name!r})\n" for name in env) + NESTED)
    assert done.returncode == 0, done.stderr
    loky, threads = done.stdout.splitlines()
    assert loky.startswith("loky [3, 2] ")
    assert int(loky.split()[-1]) <= max(2, os.cpu_count())
    assert threads.split(" ", 1)[1].strip() == "[3, 2]"


CLI = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background may have it ignored
from sam_bloodcell import cli
from sam_bloodcell.embedding import encoder
from tests import counting
from sam_bloodcell.evaluation import benchmark as _benchmark
from sklearn.linear_model import LogisticRegression
encoder.run_network = counting._written_down
_benchmark.default_classifiers = lambda seed: {"LR": LogisticRegression()}  # which ones does not matter here
cli.app(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_a_benchmark_that_is_broken_off_goes_on_from_its_cache(csv, tmp_path, monkeypatch, record_property, sign):
    monkeypatch.setenv("FORWARD_LOG", str(tmp_path / "forwards.log"))
    out, cache = tmp_path / "out", tmp_path / "cache"
    arguments = ["benchmark", csv, "--out", out, "--cache-dir", cache, "--cv", "2", "--quiet"]
    command = [sys.executable, "-W", "ignore", "-c", CLI, *map(str, arguments)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + PATIENCE
        while not passes() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(sign)
        said = process.communicate()[1].decode()
    assert process.returncode == (130 if sign == signal.SIGINT else -sign)
    assert "Traceback" not in said
    assert not [file for file in out.rglob("*") if file.is_file()]
    seen = sum(passes())
    assert 0 < seen < 80
    done = run(CLI, *arguments)
    assert done.returncode == 0, done.stderr
    assert pd.read_csv(out / "scores.csv")["train_domain"].nunique() == 2
    twice = sum(passes()) - 80
    assert 0 <= twice <= max(passes())  # at most one batch
    record_property("figure", f"a benchmark broken off by {sign.name} after {seen} of 80 images: {twice} done twice")


@pytest.mark.slow
def test_a_command_fails_in_one_line(csv, tmp_path):
    (tmp_path / "file").touch()
    done = run(CLI, "embed", csv, "--out", tmp_path / "file" / "cells.npz", "--quiet")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ")
    assert "so it was not written. Fix: free space" in done.stderr


SAVES = """
import sys
from pathlib import Path
from sam_bloodcell import SAMLoRAEmbedder, CrossDomainAutoencoder
from sam_bloodcell.bulk import embed_to_file
from sam_bloodcell.datasets import make_blood_cells, save_cells
from sam_bloodcell.segmentation import LoRATraining
csv, folder = map(Path, sys.argv[1:])
cells = make_blood_cells(1, random_state=0)
paths = sorted(csv.parent.rglob("*[0-9].png"))
embedder = SAMLoRAEmbedder("vit_tiny").fit(paths)
def attempt(name, work):
    try:
        work()
        print(name, "done")
    except Exception as exc:
        print(name, "OSError" if isinstance(exc, OSError) else type(exc).__name__, str(exc).replace(chr(10), " "))
attempt("adapter", lambda: embedder.save_pretrained(folder / "adapter"))
attempt("cells", lambda: save_cells(cells, folder / "cells"))
attempt("embed", lambda: embed_to_file(embedder, paths, folder / "cells.npz"))
attempt("cache", lambda: SAMLoRAEmbedder("vit_tiny", cache_dir=folder / "cache").fit(paths).transform(paths))
attempt("checkpoint", lambda: SAMLoRAEmbedder("vit_tiny", training=LoRATraining(epochs=1, validation_fraction=0,
        random_state=0, checkpoint=folder / "run.ckpt")).fit(cells.images[:4], masks=cells.masks[:4]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("disk", ["size=40k", "ro"], ids=["full", "read-only"])
def test_a_disk_that_takes_nothing(csv, tmp_path, disk):
    place = tmp_path / "disk"
    place.mkdir()
    mount = f"mount -t tmpfs -o {disk} tmpfs '{place}'"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("no such disk: mounting one needs root")
    listed = f"{mount} && \"$@\" && echo -- && find '{place}' -type f"
    done = run(SAVES, csv, place, prefix=["unshare", "-m", "sh", "-c", listed, "sh"])
    assert done.returncode == 0, done.stderr
    said, left = (part.splitlines() for part in done.stdout.split("--\n"))
    assert [line.split()[0] for line in said] == ["adapter", "cells", "embed", "cache", "checkpoint"]
    for line in said:
        assert line.split()[1] == "OSError", line
        assert "Fix: " in line, line
    assert not [path for path in left if Path(path).name.startswith(".")]  # no drafts
    assert not [path for path in left if path.endswith((".safetensors", "cells.npz", ".ckpt", ".csv"))]


@pytest.mark.slow
def test_other_locales_change_nothing(csv):
    """Text files are UTF-8 whatever the machine's own encoding is."""
    code = """
import sys
from pathlib import Path
from sam_bloodcell import SAMLoRAEmbedder
embedder = SAMLoRAEmbedder.from_pretrained(SAMLoRAEmbedder("vit_tiny").fit([sys.argv[1]]).save_pretrained(sys.argv[2]))
print(embedder.transform([sys.argv[1]]).shape)
"""
    image = next(csv.parent.rglob("*[0-9].png"))
    folder = csv.parent / "Zellen früh 血"
    done = run(code, image, folder, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONWARNDEFAULTENCODING="1")
    assert done.stdout == "(1, 192)\n", done.stderr


def test_a_clock_that_jumps_back(csv, tmp_path, monkeypatch):
    from sam_bloodcell import SAMLoRAEmbedder
    from sam_bloodcell.embedding.store import EmbeddingStore

    paths = sorted(map(str, csv.parent.rglob("*[0-9].png")))[:4]
    embedder = SAMLoRAEmbedder("vit_tiny", cache_dir=tmp_path).fit(paths)
    expected = embedder.transform(paths).pooled
    monkeypatch.setattr(time, "time", lambda: 0.0)  # 1970
    np.testing.assert_array_equal(embedder.transform(paths).pooled, expected)
    assert len(EmbeddingStore(tmp_path).info()) == 1
    EmbeddingStore(tmp_path).prune(0)
    np.testing.assert_array_equal(embedder.transform(paths).pooled, expected)


IN_A_NOTEBOOK = """
import sys, types, warnings
sys.modules["ipywidgets"] = None
notebook = types.SimpleNamespace(config={"IPKernelApp": {}})
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: notebook)
sys.modules["ipykernel.zmqshell"] = notebook
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    import sam_bloodcell
print([str(warning.message) for warning in told if "IProgress" in str(warning.message)])
"""


def test_a_notebook_without_widgets_draws_bars_as_text_and_says_nothing():
    done = run(IN_A_NOTEBOOK)
    assert done.stdout == "[]\n", done.stderr


RELOADED = """
import importlib, sys
from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells
images = make_blood_cells(1, domains=["lab_a"], random_state=0).images
embedder = SAMLoRAEmbedder("vit_tiny").fit(images)
for name in ("models.lora", "embedding.network"):
    importlib.reload(sys.modules[f"sam_bloodcell.{name}"])
from sam_bloodcell.embedding import encoder, network
encoder.load_network = network.load_network
print(embedder.transform(images).shape)
"""


@pytest.mark.slow
def test_an_embedder_outlives_a_reload_of_the_modules():
    """As a notebook's autoreload does: the adapter is then of a class that is not the module's any more."""
    done = run(RELOADED)
    assert done.stdout == "(5, 192)\n", done.stderr
