"""Every image once: whoever asks, in whichever process, whatever happened to the files."""

import errno
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from tests.counting import CountingEmbedder, CountingViTEmbedder, passes

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.embedding import table
from sam_bloodcell.embedding.columns import Column
from sam_bloodcell.embedding.session import Record
from sam_bloodcell.embedding.store import EmbeddingStore, parse_bytes
from sam_bloodcell.segmentation.cell import QUALITY

FIELDS = ("pooled", "tokens", "masks", "crops", "quality")


@pytest.fixture(scope="module")
def cells():
    return make_blood_cells(1, random_state=0)


@pytest.fixture(autouse=True)
def _log(tmp_path, monkeypatch):
    monkeypatch.setenv("FORWARD_LOG", str(tmp_path / "forwards.log"))


@pytest.fixture(params=["sam", "vit"])
def make(request, vit_file):
    """Return a maker of embedders of a kind that write down what their networks see."""
    if request.param == "sam":
        return partial(CountingEmbedder, "vit_tiny")
    return partial(CountingViTEmbedder, str(vit_file), pooling="both")


@pytest.fixture
def embed(make, cells, tmp_path):
    def run(images=cells.images, folder=tmp_path / "cache", **params):
        params = {"cache_dir": folder, "batch_size": 4, "keep": ("tokens", "crops")} | params
        return make(**params).fit(images).transform(images)

    return run


def table_of(folder):
    return folder / "embeddings.sqlite"


def assert_same(a, b):
    for field in FIELDS:
        np.testing.assert_array_equal(np.asarray(getattr(a, field)), np.asarray(getattr(b, field)))


@pytest.mark.parametrize("on_disk", [True, False])
def test_an_image_is_embedded_once_and_comes_back_the_same(cells, make, embed, on_disk, tmp_path):
    folder = tmp_path / "cache" if on_disk else None
    twice = np.concatenate([cells.images, cells.images[:3]])
    first = embed(twice, folder)
    assert passes() == [4, 4, 2]
    assert_same(embed(twice, folder), first)
    assert_same(first[10:], first[:3])
    assert passes() == [4, 4, 2]
    plain = make(batch_size=4, keep=("tokens", "crops"), cache_dir=tmp_path / "other").fit_transform(cells.images)
    assert_same(plain, first[:10])


@pytest.mark.parametrize(
    "other",
    [{"image_size": 208}, {"pixel_stats": "sam"}, {"prompt": "center"}, {"dtype": "float32"}],
    ids=lambda other: next(iter(other)),
)
@pytest.mark.parametrize("make", ["sam"], indirect=True)
def test_other_settings_are_other_embeddings(cells, embed, other):
    images = cells.images[:2]
    embed(images, dtype="bfloat16")
    embed(images, **{"dtype": "bfloat16"} | other)
    assert passes() == [2, 2]


@pytest.mark.parametrize(
    "other",
    [
        {"image_size": 210}, {"pixel_stats": ((127.5,) * 3,) * 2}, {"pooling": "cls"}, {"dtype": "float32"},
        {"segmenter": SAMLoRAEmbedder("vit_tiny", image_size=208)},
    ],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
@pytest.mark.parametrize("make", ["vit"], indirect=True)
def test_other_settings_of_a_vit_are_other_embeddings(cells, embed, other):
    images = cells.images[:2]
    embed(images, dtype="bfloat16")
    embed(images, **{"dtype": "bfloat16"} | other)
    assert passes() == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize(("on_disk", "n_jobs"), [(False, None), (True, None), (True, 2)])
@pytest.mark.filterwarnings("ignore:.*(worker stopped|timeout or by a memory leak)")
def test_a_grid_search_sees_every_image_once(make, cells, tmp_path, on_disk, n_jobs):
    get_reusable_executor().shutdown()  # workers of earlier tests do not know the log
    embedder = make(cache_dir=tmp_path / "cache" if on_disk else None, batch_size=3)
    pipeline = make_pipeline(embedder, LogisticRegression(max_iter=2000))
    grid = {"logisticregression__C": [0.001, 0.01, 0.1, 1, 10, 100, 1000, 10000]}
    domain = cells.domain  # two classes with enough cells for five folds
    search = GridSearchCV(pipeline, grid, cv=5, n_jobs=n_jobs).fit(cells.images, domain)
    assert search.n_splits_ * len(search.cv_results_["params"]) == 40
    assert sum(passes()) == len(cells.images)


def test_what_is_kept_on_request_is_computed_when_it_is_asked_for(cells, embed):
    plain = embed(keep=())
    assert passes() == [4, 4, 2]
    embed(keep=("tokens",))
    assert sum(passes()) == 20
    np.testing.assert_array_equal(embed(keep=()).pooled, plain.pooled)
    embed(keep=("tokens", "crops"))
    embed(keep=("crops",))
    assert sum(passes()) == 30


@pytest.mark.parametrize(("backbone", "most"), [("vit_tiny", 8_000), ("vit_b", 12_000)])
def test_a_cell_takes_little_space_on_disk(tmp_path, backbone, most):
    """Pooled embedding, quality and mask of 200 cells as real ones have them, everything that SQLite adds included."""
    width = {"vit_tiny": 192, "vit_b": 768}[backbone]
    rng = np.random.default_rng(0)
    masks = SAMLoRAEmbedder("vit_tiny").fit_transform(make_blood_cells(1, random_state=0).images)._masks.items
    quality = np.zeros(1, QUALITY)[0]
    records = {
        row.to_bytes(32, "big"): Record(rng.normal(size=width).astype(np.float32), quality, masks[row % 10])
        for row in range(200)
    }
    with EmbeddingStore(tmp_path).session("0" * 64, {}) as session:
        session.put(records)
    assert table_of(tmp_path).stat().st_size / len(records) < most


def _flip(path):
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 2, len(content), 4096):
        content[at] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "bits flipped": _flip,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-5000]),
    "emptied": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"no database" * 500),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.fault
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_damaged_is_embedded_again(embed, tmp_path, damage):
    expected = pickle.loads(pickle.dumps(embed()))
    damage(table_of(tmp_path / "cache"))
    again = embed()
    assert 10 < sum(passes()) <= 20
    for field in ("masks", "crops"):
        np.testing.assert_array_equal(np.asarray(getattr(again, field)), np.asarray(getattr(expected, field)))
    np.testing.assert_allclose(again.pooled, expected.pooled, atol=0.05)  # batches may be cut differently
    embed()
    assert sum(passes()) <= 20


@pytest.mark.fault
@pytest.mark.parametrize("column", ["pooled", "quality", "mask", "tokens", "crops", "checksum"])
@pytest.mark.parametrize("value", [b"x" * 100, None, 7], ids=["other bytes", "nothing", "a number"])
def test_a_record_that_was_changed_is_not_believed(embed, tmp_path, column, value):
    expected = pickle.loads(pickle.dumps(embed()))
    with closing(sqlite3.connect(table_of(tmp_path / "cache"))) as table:
        table.execute(f"UPDATE cell SET {column} = ? WHERE rowid IN (2, 3)", (value,))
        table.commit()
    again = embed()
    assert sum(passes()) == 12
    np.testing.assert_allclose(again.pooled, expected.pooled, atol=0.05)
    np.testing.assert_allclose(again.tokens[:].astype(float), expected.tokens.astype(float), atol=0.1)


@pytest.mark.fault
def test_records_that_changed_places_are_not_believed(embed, tmp_path):
    expected = pickle.loads(pickle.dumps(embed()))
    with closing(sqlite3.connect(table_of(tmp_path / "cache"))) as table:
        (first,), (second,) = table.execute("SELECT key FROM cell WHERE rowid IN (1, 2)").fetchall()
        for rowid, key in ((1, b"for a moment"), (2, first), (1, second)):
            table.execute("UPDATE cell SET key = ? WHERE rowid = ?", (key, rowid))
        table.commit()
    np.testing.assert_allclose(embed().pooled, expected.pooled, atol=0.05)
    assert sum(passes()) == 12


def _python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=os.environ
    )


WRITER = """
import sys, numpy as np
from tests import counting
from sam_bloodcell.datasets import make_blood_cells
images = make_blood_cells(2, random_state=0).images
embedder = getattr(counting, sys.argv[3])(sys.argv[4], cache_dir=sys.argv[1], batch_size=2).fit(images)
np.save(sys.argv[2], embedder.transform(images).pooled)
"""


@pytest.mark.slow
@pytest.mark.fault
def test_two_writers_share_the_work(make, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
    kind = (make.func.__name__, make.args[0])
    writers = [_python(WRITER, tmp_path / "cache", tmp_path / f"{name}.npy", *kind) for name in "ab"]
    for writer in writers:
        writer.communicate(timeout=120)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert sum(passes()) == 20
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


CLAIMER = """
import sys, time
from sam_bloodcell.embedding.store import EmbeddingStore
with EmbeddingStore(sys.argv[1]).session("0" * 64, {}) as session:
    print(session.claim([b"x" * 32]), flush=True)
    time.sleep(100)
"""


@pytest.mark.slow
@pytest.mark.fault
def test_what_a_killed_writer_claimed_is_taken_over(tmp_path):
    with _python(CLAIMER, tmp_path) as other, EmbeddingStore(tmp_path).session("0" * 64, {}) as session:
        assert "xxx" in other.stdout.readline()
        assert session.claim([b"x" * 32, b"y" * 32]) == [b"y" * 32]
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert session.claim([b"x" * 32]) == [b"x" * 32]


def some_records(n, seed=0):
    rng = np.random.default_rng(seed)
    quality = np.zeros(n, QUALITY)
    return {
        key(seed + i): Record(
            rng.normal(size=4).astype(np.float32),
            quality[i],
            rng.bytes(20),
            rng.normal(size=(4, 2, 2)).astype(np.float16),
            rng.integers(0, 256, (128, 128, 3), np.uint8),
        )
        for i in range(n)
    }


def key(i):
    return bytes([i]) * 32


@pytest.fixture
def stored(cells, make, embed, tmp_path):
    """Embeddings in memory and on disk, put there in three batches and asked for in another order."""
    order = [6, 0, 3, 2, 5, 1, 4, 0]
    in_memory = make(batch_size=4, keep=("tokens", "crops")).fit(cells.images)
    embed(batch_size=4)
    return in_memory.transform(cells.images)[order], embed(cells.images[order])


@pytest.mark.parametrize("field", ["tokens", "masks", "crops"])
def test_columns_on_disk_behave_as_arrays(stored, field):
    expected, actual = (getattr(part, field) for part in stored)
    assert isinstance(actual, Column)
    expected = np.asarray(expected)
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
    np.testing.assert_array_equal(np.stack([actual, actual]), np.stack([expected, expected]))
    np.testing.assert_array_equal(actual.max(axis=0), expected.max(axis=0))
    np.testing.assert_array_equal(actual > 0, expected > 0)
    joined = np.concatenate([actual, actual])
    assert isinstance(joined, Column)
    np.testing.assert_array_equal(joined[:], np.concatenate([expected, expected]))
    unpickled = pickle.loads(pickle.dumps(actual))
    assert isinstance(unpickled, Column if field == "masks" else np.ndarray)
    np.testing.assert_array_equal(unpickled, expected)


def test_rows_of_embeddings_stay_on_disk(stored):
    expected, actual = stored
    part = np.concatenate([actual[[5, 1]], actual[2:4]])
    assert isinstance(part.tokens, Column)
    assert_same(part, expected[[5, 1, 2, 3]])


@pytest.mark.filterwarnings("ignore:fit_transform used domain only in fit")
def test_an_autoencoder_learns_the_same_from_disk(cells, make, embed):
    pooling = {"pooling": "mask"} if make.func is CountingViTEmbedder else {}
    embeddings = [embed(**pooling), embed(folder=None, **pooling)]
    assert embeddings[0].crops.decode.on_disk
    features = [
        CrossDomainAutoencoder(4, architecture="conv", epochs=1, random_state=0).fit_transform(e, domain=cells.domain)
        for e in embeddings
    ]
    np.testing.assert_array_equal(*features)


def test_what_was_used_longest_ago_goes_first(tmp_path):
    store = EmbeddingStore(tmp_path)
    for i in range(3):
        with store.session("0" * 64, {"backbone": "vit_b"}) as session:
            session.put(some_records(1, i))
    with store.session("0" * 64, {}) as session:
        assert session.missing([key(0), key(3)]) == [key(3)]
        table = store.info()
        size = table["bytes"].item()
        assert (table["cells"].item(), table["backbone"].item()) == (3, "vit_b")
        assert store.prune(size * 2 // 3) == size // 3
    with store.session("0" * 64, {}) as session:
        assert session.missing([key(0), key(1), key(2)]) == [key(1)]
    full = table_of(tmp_path).stat().st_size
    assert store.prune(0) == size * 2 // 3
    assert table_of(tmp_path).stat().st_size < full / 2
    assert len(store.info()) == 0


def test_a_limit_is_kept_when_a_session_ends(tmp_path):
    with EmbeddingStore(tmp_path, limit=1000).session("0" * 64, {}) as session:
        session.put(some_records(1))
        assert session.missing([key(0)]) == []
    assert EmbeddingStore(tmp_path).info().empty


def test_tokens_that_a_call_asked_for_outlast_the_limit(make, cells, embed):
    first = embed(cells.images[:2], cache_limit=1000)
    width, grid = {"CountingEmbedder": (192, 14), "CountingViTEmbedder": (64, 16)}[make.func.__name__]
    assert first.tokens.shape == (2, width, grid, grid)
    embed(cells.images[2:4], cache_limit=1000)
    with pytest.raises(OSError, match=r"Some tokens are no longer in the cache .* Fix: .* larger cache_limit"):
        first.tokens[0]


@pytest.mark.parametrize(("size", "expected"), [(5, 5), ("7", 7), ("1.5 GB", 15 * 10**8), ("20mb", 20 * 10**6)])
def test_sizes_are_read(size, expected):
    assert parse_bytes(size) == expected


@pytest.mark.parametrize("size", ["", "GB", "-3", "5 PB"])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ValueError, match=r"expected a size. Fix: .*20GB"):
        parse_bytes(size)


def test_memory_drops_the_oldest_beyond_its_share(monkeypatch):
    store = EmbeddingStore()
    with store.session("r", {}) as session:
        session.put(some_records(1, 0))
        session.put(some_records(1, 1))
    assert store.nbytes > 0
    monkeypatch.setattr("sam_bloodcell.embedding.store._MEMORY_SHARE", 0)
    with store.session("r", {}) as session:
        assert session.missing([key(0), key(1)]) == []
        assert set(session.found) == {key(0), key(1)}
    assert store.nbytes == 0
    with store.session("r", {}) as session:
        assert session.missing([key(0)]) == [key(0)]


@pytest.mark.fault
def test_a_forked_process_does_not_wait_for_its_parents_claims(monkeypatch):
    store = EmbeddingStore()
    with store.session("r", {}) as session:
        assert session.claim([key(0)]) == [key(0)]
        held, _ = store._memory._of_process[os.getpid()]  # as a thread of the parent may hold it at the fork
        with held, monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: 1)
            with store.session("r", {}) as other:
                assert other.claim([key(0)]) == [key(0)]


@pytest.mark.fault
@pytest.mark.parametrize("on_disk", [True, False])
def test_an_error_gives_up_what_was_claimed(cells, embed, tmp_path, monkeypatch, on_disk):
    folder = tmp_path / "cache" if on_disk else None
    with monkeypatch.context() as broken:
        broken.setattr("tests.counting._run", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            embed(cells.images[:2], folder)
    assert len(embed(cells.images[:2], folder)) == 2


def test_a_folder_that_cannot_be_used_is_named(tmp_path, monkeypatch):
    store = EmbeddingStore(tmp_path)
    monkeypatch.setattr("sam_bloodcell.embedding.table._PATIENCE", 0)
    blocker = sqlite3.connect(table_of(tmp_path), isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OSError, match=r"The cache '.*' cannot be used: .*locked. Fix:"):
        store.info()
    blocker.close()


def test_a_file_is_read_once_and_what_was_read_is_embedded(tmp_path, monkeypatch):
    """A file that is replaced between two looks at it must not lend its digest to another picture."""
    cells = make_blood_cells(1, random_state=0)
    path, other = tmp_path / "cell.png", tmp_path / "other.png"
    for file, image in ((path, cells.images[0]), (other, cells.images[1])):
        Image.fromarray(image).save(file)
    embedder = SAMLoRAEmbedder("vit_tiny", cache_dir=tmp_path / "cache").fit([path])
    expected = [SAMLoRAEmbedder("vit_tiny").fit_transform([file]).pooled for file in (path, other)]
    read, seen = Path.read_bytes, []

    def replaced_afterwards(self):
        content = read(self)
        if self == path:
            seen.append(self)
            path.write_bytes(read(other))
        return content

    monkeypatch.setattr(Path, "read_bytes", replaced_afterwards)
    np.testing.assert_array_equal(embedder.transform([path]).pooled, expected[0])
    assert seen == [path]
    np.testing.assert_array_equal(embedder.transform([path]).pooled, expected[1])


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.fault
def test_a_cache_that_may_only_be_read_is_read_and_left_as_it_is(tmp_path, monkeypatch):
    with EmbeddingStore(tmp_path).session("0" * 64, {}) as session:
        session.put(some_records(2))
    before = contents(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    store = EmbeddingStore(tmp_path, limit=0)
    with store.session("0" * 64, {}, keep=("tokens",)) as session:
        assert session.missing([key(0), key(1)]) == []
        assert not session.forget_lost()
        np.testing.assert_array_equal(session.column([key(1)], "tokens")[:], [some_records(2)[key(1)].tokens])
        with pytest.raises(OSError, match=r"read-only and lacks some of these images\. Fix: .*another cache_dir"):
            session.claim(session.missing([key(2)]))
    assert store.info()["cells"].tolist() == [2]
    with pytest.raises(OSError, match=r"The cache '.*' cannot be used: it is read-only\. Fix:"):
        store.prune(0)
    assert contents(tmp_path) == before


def test_a_cache_that_was_copied_without_its_empty_folder_is_used_on(tmp_path):
    with EmbeddingStore(tmp_path).session("0" * 64, {}) as session:
        session.put(some_records(1))
    shutil.rmtree(tmp_path / "sessions")
    with EmbeddingStore(tmp_path).session("0" * 64, {}) as session:
        assert session.claim(session.missing([key(0), key(1)])) == [key(1)]


class OnFullDisk(sqlite3.Connection):
    """Behaves as SQLite does on a full disk: it rolls back, and only a journal in memory helps."""

    def _check(self, sql):
        in_memory = super().execute("PRAGMA journal_mode").fetchone() == ("memory",)
        if sql.startswith(("INSERT", "DELETE", "PRAGMA incremental")) and not in_memory:
            if self.in_transaction:
                super().execute("ROLLBACK")
            raise sqlite3.OperationalError("database or disk is full")

    def execute(self, sql, *values):
        self._check(sql)
        return super().execute(sql, *values)

    def executemany(self, sql, rows):
        if rows := list(rows):
            self._check(sql)
        return super().executemany(sql, rows)

    def executescript(self, sql):
        self._check(sql)
        return super().executescript(sql)


@pytest.mark.fault
def test_a_cache_on_a_full_disk_can_be_read_and_pruned(tmp_path, monkeypatch):
    store, connect = EmbeddingStore(tmp_path), sqlite3.connect
    with store.session("0" * 64, {}) as session:
        session.put(some_records(2))
    with store.session("0" * 64, {}) as session, monkeypatch.context() as full:
        full.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, **kwargs, factory=OnFullDisk))
        assert session.missing([key(0), key(1)]) == []
        with pytest.raises(OSError, match=r"The cache '.*' cannot be used: database or disk is full\. Fix: free space"):
            session.put(some_records(1, seed=5))
        assert store.prune(0) > 0
    assert store.nbytes == 0


@pytest.mark.fault
def test_threads_share_one_table_in_memory(monkeypatch):
    create, store = table._create, EmbeddingStore()
    monkeypatch.setattr(table, "_create", lambda db: (time.sleep(0.1), create(db)))

    def embed_one(row):
        with store.session("r", {}) as session:
            session.put(some_records(1, row))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(embed_one, range(4)))
    with store.session("r", {}) as session:
        assert session.missing([key(row) for row in range(4)]) == []


@pytest.mark.fault
def test_the_memory_of_a_process_touches_no_file(tmp_path, monkeypatch):
    """Not even one in the working folder that is called as a cache's is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "embeddings.sqlite").write_bytes(b"mine")
    store = EmbeddingStore()
    store.transact(lambda db: db.execute("DROP TABLE used"))
    with pytest.raises(OSError, match="no such table"):
        store.info()
    assert contents(tmp_path) == {tmp_path / "embeddings.sqlite": b"mine"}


@pytest.mark.fault
def test_a_table_of_another_version_is_not_deleted(tmp_path):
    with closing(sqlite3.connect(table_of(tmp_path))) as newer:
        newer.execute("CREATE TABLE cells_2 (x)")
    before = table_of(tmp_path).read_bytes()
    with pytest.raises(OSError, match=r"'embeddings.sqlite' is of another version or program\. Fix: .*cache_dir"):
        EmbeddingStore(tmp_path).info()
    assert table_of(tmp_path).read_bytes() == before


@pytest.mark.fault
def test_a_table_that_is_locked_is_not_taken_for_damaged(tmp_path, monkeypatch):
    store = EmbeddingStore(tmp_path)
    monkeypatch.setattr(table, "_PATIENCE", 0)
    with closing(sqlite3.connect(table_of(tmp_path), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            store._begin_anew()
    assert len(store.info()) == 0


@pytest.mark.fault
@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o077, 0o600), (0o000, 0o666)])
def test_the_umask_decides_who_may_write_to_the_table(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        EmbeddingStore(tmp_path / "cache")
    finally:
        os.umask(before)
    assert table_of(tmp_path / "cache").stat().st_mode & 0o777 == mode


def lock_that_raises(error):
    class Lock:
        def __init__(self, path):
            self.path = path

        def acquire(self, timeout=-1):
            raise error

        __enter__ = acquire
        __exit__ = None

    return Lock


@pytest.mark.fault
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("does not appear to support flock")],
    ids=["no locks left", "no locks at all"],
)
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, error):
    store = EmbeddingStore(tmp_path)
    monkeypatch.setattr(table, "FileLock", lock_that_raises(error))
    with pytest.raises(OSError, match=r"The cache '.*' cannot be used: .*lock.* Fix: .* on a disk of this machine"):
        store.session("r", {}).__enter__()


@pytest.mark.fault
def test_what_another_user_claimed_behind_a_lock_of_his_own_is_embedded_again(tmp_path, monkeypatch):
    store = EmbeddingStore(tmp_path)
    with store.session("r", {}) as his, store.session("r", {}) as ours:
        his.claim([key(0)])
        monkeypatch.setattr(table, "FileLock", lock_that_raises(PermissionError(errno.EACCES, "Permission denied")))
        assert ours.claim([key(0)]) == [key(0)]


@pytest.mark.fault
def test_a_folder_that_was_removed_meanwhile_is_named(tmp_path):
    store = EmbeddingStore(tmp_path / "cache")
    with pytest.raises(OSError, match=r"cache' cannot be used: the folder is gone\. Fix:"), store.session("r", {}):
        shutil.rmtree(tmp_path / "cache")


@pytest.mark.fault
def test_what_a_wrong_clock_dated_into_the_future_goes_first(tmp_path, monkeypatch):
    store, now = EmbeddingStore(tmp_path), time.time()
    with store.session("r", {}) as session:
        for row, at in enumerate([now + 1e9, now - 20, now - 10]):
            monkeypatch.setattr(time, "time", lambda at=at: at)
            session.put(some_records(1, row))
    monkeypatch.setattr(time, "time", lambda: now)
    store.prune(store.nbytes * 2 // 3)
    with store.session("r", {}) as session:
        assert session.missing([key(0), key(1), key(2)]) == [key(0)]
