"""Every image once: whoever asks, in whichever process, whatever happened to the files."""

import os
import pickle
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from tests.counting import CountingEmbedder, passes

from sam_bloodcell import CellEmbeddings, CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.embedding.cache import DiskStore, MemoryStore, parse_bytes
from sam_bloodcell.embedding.stored import StoredRows
from sam_bloodcell.segmentation.cell import QUALITY

FIELDS = ("pooled", "tokens", "masks", "crops", "quality")


@pytest.fixture(scope="module")
def cells():
    return make_blood_cells(1, random_state=0)


@pytest.fixture(autouse=True)
def _log(tmp_path, monkeypatch):
    monkeypatch.setenv("FORWARD_LOG", str(tmp_path / "forwards.log"))


@pytest.fixture
def embed(cells, tmp_path):
    def run(images=cells.images, folder=tmp_path / "cache", **params):
        params = {"cache_dir": folder, "batch_size": 4} | params
        return CountingEmbedder("vit_tiny", **params).fit(images).transform(images)

    return run


def shards(folder):
    return sorted(folder.glob("*/*.npy"))


def assert_same(a, b):
    for field in FIELDS:
        np.testing.assert_array_equal(np.asarray(getattr(a, field)), np.asarray(getattr(b, field)))


@pytest.mark.parametrize("on_disk", [True, False])
def test_an_image_is_embedded_once_and_comes_back_the_same(cells, embed, on_disk, tmp_path):
    folder = tmp_path / "cache" if on_disk else None
    twice = np.concatenate([cells.images, cells.images[:3]])
    first = embed(twice, folder)
    assert passes() == [4, 4, 2]
    assert_same(embed(twice, folder), first)
    assert_same(first[10:], first[:3])
    assert passes() == [4, 4, 2]
    plain = SAMLoRAEmbedder("vit_tiny", batch_size=4).fit(cells.images).transform(cells.images)
    assert_same(plain, first[:10])


@pytest.mark.parametrize(
    "other",
    [{"image_size": 208}, {"pixel_stats": "sam"}, {"prompt": "center"}, {"dtype": "float32"}],
    ids=lambda other: next(iter(other)),
)
def test_other_settings_are_other_embeddings(cells, embed, other):
    images = cells.images[:2]
    embed(images, dtype="bfloat16")
    embed(images, **{"dtype": "bfloat16"} | other)
    assert passes() == [2, 2]


@pytest.mark.parametrize(("on_disk", "n_jobs"), [(False, None), (True, None), (True, 2)])
@pytest.mark.filterwarnings("ignore:.*(worker stopped|timeout or by a memory leak)")
def test_a_grid_search_sees_every_image_once(cells, tmp_path, on_disk, n_jobs):
    get_reusable_executor().shutdown()  # workers of earlier tests do not know the log
    embedder = CountingEmbedder("vit_tiny", cache_dir=tmp_path / "cache" if on_disk else None, batch_size=3)
    pipeline = make_pipeline(embedder, LogisticRegression(max_iter=2000))
    grid = {"logisticregression__C": [0.001, 0.01, 0.1, 1, 10, 100, 1000, 10000]}
    domain = cells.domain  # two classes with enough cells for five folds
    search = GridSearchCV(pipeline, grid, cv=5, n_jobs=n_jobs).fit(cells.images, domain)
    assert search.n_splits_ * len(search.cv_results_["params"]) == 40
    assert sum(passes()) == len(cells.images)


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a bit flipped": _flip,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "emptied": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.fault
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_shard_is_done_again(embed, tmp_path, damage):
    expected = pickle.loads(pickle.dumps(embed()))  # a file changed under a memory map may end the process
    sizes = {len(np.load(path)) for path in shards(tmp_path / "cache")[:1]}
    damage(shards(tmp_path / "cache")[0])
    again = embed()
    assert sum(passes()) == 10 + sizes.pop()
    for field in ("masks", "crops"):
        np.testing.assert_array_equal(np.asarray(getattr(again, field)), np.asarray(getattr(expected, field)))
    np.testing.assert_allclose(again.pooled, expected.pooled, atol=0.05)  # batches are cut differently


@pytest.mark.fault
@pytest.mark.parametrize("content", [b"no database" * 500, b"", None], ids=["garbage", "empty", "gone"])
def test_a_damaged_index_is_rebuilt_without_its_damaged_shards(embed, tmp_path, content):
    expected = embed()
    index = tmp_path / "cache" / "index.sqlite"
    index.unlink() if content is None else index.write_bytes(content)
    assert_same(embed(), expected)
    del expected
    assert sum(passes()) == 10
    index.write_bytes(b"no database" * 500)
    _flip(shards(tmp_path / "cache")[0])
    embed()
    assert sum(passes()) > 10


def _python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=os.environ
    )


WRITER = """
import sys, numpy as np
from tests.counting import CountingEmbedder
from sam_bloodcell.datasets import make_blood_cells
images = make_blood_cells(2, random_state=0).images
embedder = CountingEmbedder("vit_tiny", cache_dir=sys.argv[1], batch_size=2).fit(images)
np.save(sys.argv[2], embedder.transform(images).pooled)
"""


@pytest.mark.fault
def test_two_writers_share_the_work(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    writers = [_python(WRITER, tmp_path / "cache", tmp_path / f"{name}.npy") for name in "ab"]
    for writer in writers:
        writer.communicate(timeout=120)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert sum(passes()) == 20
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


CLAIMER = """
import sys, time
from sam_bloodcell.embedding.cache import DiskStore
with DiskStore(sys.argv[1]).session("0" * 64, {}) as session:
    print(session.take([b"x" * 32]), flush=True)
    time.sleep(100)
"""


@pytest.mark.fault
def test_what_a_killed_writer_claimed_is_taken_over(tmp_path):
    with _python(CLAIMER, tmp_path) as other, DiskStore(tmp_path).session("0" * 64, {}) as session:
        assert "xxx" in other.stdout.readline()
        assert session.take([b"x" * 32, b"y" * 32]) == [b"y" * 32]
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert session.take([b"x" * 32]) == [b"x" * 32]


def some_cells(n, seed=0):
    rng = np.random.default_rng(seed)
    return CellEmbeddings(
        rng.normal(size=(n, 4)),
        rng.normal(size=(n, 4, 2, 2)).astype(np.float16),
        rng.random((n, 16, 16)) > 0.5,
        rng.integers(0, 256, (n, 128, 128, 3), np.uint8),
        np.zeros(n, QUALITY),
    )


def key(i):
    return bytes([i]) * 32


@pytest.fixture
def stored(tmp_path):
    """Seven cells in three shards, asked for in another order."""
    cells = some_cells(7)
    order = [6, 0, 3, 2, 5, 1, 4, 0]
    with DiskStore(tmp_path).session("0" * 64, {}) as session:
        for rows in ([0, 1, 2], [3, 4], [5, 6]):
            session.put([key(row) for row in rows], cells[rows])
        return cells[order], session.rows([key(row) for row in order])


@pytest.mark.parametrize("field", ["tokens", "masks", "crops"])
def test_columns_on_disk_behave_as_arrays(stored, field):
    expected, actual = (getattr(part, field) for part in stored)
    assert isinstance(actual, StoredRows)
    assert (actual.shape, actual.dtype, actual.ndim, len(actual)) == (
        expected.shape, expected.dtype, expected.ndim, len(expected),
    )  # fmt: skip
    every = np.arange(8) % 2 == 0
    for rows in (
        2,
        -1,
        slice(1, 5),
        slice(None, None, -2),
        [4, 0, 0],
        np.array([7]),
        every,
        slice(0),
        (slice(2, 4), 1),
    ):
        np.testing.assert_array_equal(actual[rows], expected[rows])
    np.testing.assert_array_equal(np.asarray(actual), expected)
    np.testing.assert_array_equal(np.stack([actual, actual]).sum(), 2 * np.asarray(expected).sum())
    joined = np.concatenate([actual, actual])
    assert isinstance(joined, StoredRows)
    np.testing.assert_array_equal(joined[:], np.concatenate([expected, expected]))
    unpickled = pickle.loads(pickle.dumps(actual))
    assert isinstance(unpickled, np.ndarray)
    np.testing.assert_array_equal(unpickled, expected)


def test_rows_of_embeddings_stay_on_disk(stored):
    expected, actual = stored
    part = np.concatenate([actual[[5, 1]], actual[2:4]])
    assert isinstance(part.tokens, StoredRows)
    assert_same(part, expected[[5, 1, 2, 3]])


def test_an_autoencoder_learns_the_same_from_disk(cells, embed):
    embeddings = [embed(), embed(folder=None)]
    assert isinstance(embeddings[0].crops, StoredRows)
    features = [
        CrossDomainAutoencoder(4, architecture="conv", epochs=1, random_state=0).fit_transform(e, domain=cells.domain)
        for e in embeddings
    ]
    np.testing.assert_array_equal(*features)


def test_what_was_used_longest_ago_goes_first_and_stays_readable(tmp_path):
    store = DiskStore(tmp_path)
    for i in range(3):
        with store.session("0" * 64, {"backbone": "vit_b"}) as session:
            session.put([key(i)], some_cells(1, i))
    with store.session("0" * 64, {}) as session:
        assert session.missing([key(0), key(3)]) == [key(3)]
        held = session.rows([key(0)])
        table = store.info()
        size = table["bytes"].item()
        assert (table["cells"].item(), table["backbone"].item()) == (3, "vit_b")
        assert store.prune(size * 2 // 3) == size // 3
        assert session.missing([key(0), key(1), key(2)]) == [key(1)]
        assert store.prune(0) == size * 2 // 3
        np.testing.assert_array_equal(held.crops[:], some_cells(1, 0).crops)
    assert shards(tmp_path) == []
    assert len(store.info()) == 0


def test_a_limit_is_kept_when_a_session_ends(tmp_path):
    with DiskStore(tmp_path, limit=1000).session("0" * 64, {}) as session:
        session.put([key(0)], some_cells(1))
        assert session.missing([key(0)]) == []
    assert shards(tmp_path) == []


@pytest.mark.parametrize(("size", "expected"), [(5, 5), ("7", 7), ("1.5 GB", 15 * 10**8), ("20mb", 20 * 10**6)])
def test_sizes_are_read(size, expected):
    assert parse_bytes(size) == expected


@pytest.mark.parametrize("size", ["", "GB", "-3", "5 PB"])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ValueError, match=r"expected a size. Fix: .*20GB"):
        parse_bytes(size)


def test_memory_drops_the_oldest_beyond_its_share(monkeypatch):
    store = MemoryStore()
    with store.session("r", {}) as session:
        for i in range(3):
            session.put([key(i)], some_cells(1, i))
        assert store.nbytes > 0
        monkeypatch.setattr("sam_bloodcell.embedding.cache._memory._MEMORY_SHARE", 0)
        session.put([key(3)], some_cells(1, 3))
        assert len(session.rows([key(0), key(3)])) == 2  # the session keeps what it saw
    assert store.nbytes == 0
    with store.session("r", {}) as session:
        assert session.missing([key(0)]) == [key(0)]


@pytest.mark.fault
@pytest.mark.parametrize("on_disk", [True, False])
def test_an_error_gives_up_what_was_claimed(cells, embed, tmp_path, monkeypatch, on_disk):
    folder = tmp_path / "cache" if on_disk else None
    with monkeypatch.context() as broken:
        broken.setattr("tests.counting._run", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            embed(cells.images[:2], folder)
    assert embed(cells.images[:2], folder).shape == (2, 192)


def test_a_folder_that_cannot_be_used_is_named(tmp_path, monkeypatch):
    store = DiskStore(tmp_path)
    monkeypatch.setattr("sam_bloodcell.embedding.cache._disk._PATIENCE", 0)
    blocker = sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OSError, match=r"The cache '.*' cannot be used: .*locked. Fix:"):
        store.info()
    blocker.close()


@pytest.mark.fault
def test_an_index_from_elsewhere_cannot_reach_out_of_its_folder(tmp_path):
    images = make_blood_cells(1, random_state=0).images
    embedder = SAMLoRAEmbedder("vit_tiny", cache_dir=tmp_path / "cache").fit(images)
    expected = np.asarray(embedder.transform(images).pooled)
    victim = tmp_path / "victim.npy"
    np.save(victim, np.arange(3))
    (index,) = (tmp_path / "cache").glob("*.sqlite*")
    with closing(sqlite3.connect(index)) as connection:
        for table, column in (("cell", "shard"), ("shard", "name")):
            connection.execute(f"UPDATE {table} SET {column} = '../victim.npy'")
        connection.commit()
    np.testing.assert_allclose(embedder.transform(images).pooled, expected, atol=1e-5)
    DiskStore(tmp_path / "cache").prune(0)
    assert victim.exists()


@pytest.mark.fault
@pytest.mark.parametrize("row", [0, 99, -1])
def test_an_index_that_is_wrong_about_rows_is_noticed(row, tmp_path):
    images = make_blood_cells(1, random_state=0).images
    embedder = SAMLoRAEmbedder("vit_tiny", cache_dir=tmp_path).fit(images)
    expected = np.asarray(embedder.transform(images).pooled)
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as connection:
        connection.execute("UPDATE cell SET row = ?", (row,))
        connection.commit()
    np.testing.assert_allclose(embedder.transform(images).pooled, expected, atol=1e-5)
