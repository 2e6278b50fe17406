"""Any number of images into one file, whatever happens on the way."""

import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.utils import Bunch
from tests.counting import passes

from sam_bloodcell import CellEmbeddings, ImageReadError, SAMLoRAEmbedder, bulk, extras
from sam_bloodcell.bulk import embed_to_file, find_images
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells
from sam_bloodcell.embedding import encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zwölf Zellen")
    save_cells(make_blood_cells(1, random_state=0), folder)
    return folder


@pytest.fixture(scope="module")
def embedder(folder):
    return SAMLoRAEmbedder("vit_tiny", batch_size=3).fit(find_images([folder])["path"])


@pytest.fixture(scope="module")
def pooled(embedder, folder):
    return embedder.transform(find_images([folder / "cells.csv"])["path"]).pooled


def _parquet(path):
    table = pd.read_parquet(path)
    features = table.filter(like="samloraembedder")
    return table["path"], table["domain"], table["quality_area"], features.to_numpy()


def _npz(path):
    arrays = np.load(path)
    return arrays["path"], arrays["domain"], arrays["quality_area"], arrays["embeddings"]


def _csv(path):
    table = pd.read_csv(path)
    features = table.filter(like="samloraembedder").to_numpy(np.float32)
    return table["path"], table["domain"], table["quality_area"].astype(np.float32), features


def _h5ad(path):
    table = anndata.read_h5ad(path)
    return table.obs["path"], table.obs["domain"], table.obs["quality_area"], table.X


READERS = {"parquet": _parquet, "csv": _csv, "npz": _npz, "h5ad": _h5ad}


@pytest.mark.parametrize("suffix", READERS)
def test_every_format_holds_the_embeddings_and_the_table(embedder, folder, pooled, tmp_path, suffix):
    table = find_images([folder / "cells.csv"])
    out = embed_to_file(embedder, table, tmp_path / "new" / f"cells.{suffix}")
    paths, domains, area, embeddings = READERS[suffix](out)
    np.testing.assert_array_equal(list(paths), table["path"])
    np.testing.assert_array_equal(list(domains), table["domain"])
    np.testing.assert_array_equal(embeddings, pooled)
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(area, embedder.transform(table["path"]).quality["area"])
    assert [path.name for path in out.parent.iterdir()] == [out.name]


KILLED = """
import os, random, signal, sys, time
import numpy as np, pyarrow.parquet, sqlite3, torch
from pathlib import Path
from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.embedding import encoder
from sam_bloodcell.bulk import embed_to_file, find_images
from sam_bloodcell.models.lora import _peft
from tests import counting

_peft()  # imported once, before the children
folder, killed, unbroken = sys.argv[1:]
encoder.run_network = counting._written_down

def start(out, log=os.environ["FORWARD_LOG"]):
    child = os.fork()
    if child == 0:
        os.environ["FORWARD_LOG"] = log
        torch.set_num_threads(1)
        table = find_images([folder])
        embed_to_file(SAMLoRAEmbedder("vit_tiny", batch_size=1).fit(table["path"]), table, out)
        os._exit(0)
    return child

os.waitpid(start(unbroken, os.devnull), 0)
table, n = Path(killed + ".unfinished") / "embeddings.sqlite", len(find_images([folder]))
def done():
    try:
        stored = sqlite3.connect(table, timeout=10).execute("SELECT COUNT(*) FROM cell") if table.exists() else None
        return stored.fetchone()[0] if stored else 0
    except sqlite3.OperationalError:  # killed before there was anything in it
        return 0

rng, midway = random.Random(0), 0
for attempt in range(20):
    child, far_enough = start(killed), done() + rng.randrange(4)
    while attempt % 4 and done() < far_enough and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.05))  # every fourth is killed at once
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    midway += 0 < done() < n
if not Path(killed).exists():
    os.waitpid(start(killed), 0)
print(midway)
"""


@pytest.mark.slow
@pytest.mark.fault
def test_twenty_kills_lose_nothing(tmp_path, monkeypatch, record_property):
    monkeypatch.setenv("FORWARD_LOG", str(tmp_path / "forwards.log"))
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    save_cells(make_blood_cells(6, random_state=0), tmp_path / "cells")
    images = find_images([tmp_path / "cells"])
    files = [tmp_path / name for name in ("cells", "killed.parquet", "unbroken.parquet")]
    command = [sys.executable, "-W", "ignore", "-c", KILLED, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5  # kills that fell into the work
    assert len(images) <= len(passes()) <= len(images) + 20
    killed, unbroken = (np.frombuffer(file.read_bytes(), np.uint8) for file in files[1:])
    assert len(killed) == len(unbroken)
    lost = np.count_nonzero(killed != unbroken)
    assert lost == 0
    twice = len(passes()) - len(images)
    told = f"{int(done.stdout)} of 20 kills hit a bulk embedding at work: {twice} images done twice"
    record_property("figure", f"{told}, {lost} of {len(killed):,} bytes lost")
    assert not (tmp_path / "killed.parquet.unfinished").exists()


@pytest.mark.fault
@pytest.mark.parametrize("suffix", READERS)
def test_stopped_while_writing_the_file_is_written_again(embedder, folder, tmp_path, monkeypatch, suffix):
    images = find_images([folder])
    whole = embed_to_file(embedder, images, tmp_path / f"a.{suffix}")
    out = tmp_path / f"b.{suffix}"
    writer = f"_write_{suffix}"
    write = getattr(bulk, writer)

    def stop(path, *rest):
        write(path, *rest)
        _interrupt(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(bulk, writer, stop)
        with pytest.raises(KeyboardInterrupt):
            embed_to_file(embedder, images, out)
    assert not out.exists()
    monkeypatch.setattr(encoder, "run_network", None)  # nothing is computed again
    embed_to_file(embedder, images, out)
    files = [sorted(path for path in at.rglob("*") if path.is_file()) if at.is_dir() else [at] for at in (whole, out)]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


@pytest.fixture
def with_bad(folder, tmp_path):
    images = find_images([folder])["path"].tolist()
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes(Path(images[0]).read_bytes()[:2000])
    bad = [str(tmp_path / name) for name in ("empty.png", "text.png", "cut.png")]
    return [*bad, *images[:2], bad[1], *images[2:]]


def test_unreadable_images_are_left_out_and_listed(embedder, folder, with_bad, tmp_path):
    out = embed_to_file(embedder, with_bad, tmp_path / "out.parquet", on_error="skip")
    table = pd.read_parquet(out)
    assert table["path"].tolist() == find_images([folder])["path"].tolist()
    expected = embedder.transform(table["path"]).pooled
    np.testing.assert_allclose(table.filter(like="samlora"), expected, atol=0.05)
    errors = pd.read_csv(tmp_path / "out.parquet.errors.csv")
    assert errors["row"].tolist() == [0, 1, 2, 5]
    assert errors["path"].tolist() == [with_bad[row] for row in errors["row"]]
    assert all(f"Row {row}: " in error for row, error in zip(errors["row"], errors["error"], strict=True))
    embed_to_file(embedder, find_images([folder]), out, overwrite=True)
    assert not (tmp_path / "out.parquet.errors.csv").exists()


def test_after_a_repair_it_goes_on(embedder, folder, tmp_path, monkeypatch):
    images = find_images([folder])["path"].tolist()
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    images[7] = bad
    with pytest.raises(ImageReadError, match=r"Row 7: .*bad\.png"):
        embed_to_file(embedder, images, tmp_path / "out.npz")
    bad.write_bytes(Path(images[0]).read_bytes())
    run, seen = encoder.run_network, []
    monkeypatch.setattr(encoder, "run_network", lambda *parts: seen.append(len(parts[-1])) or run(*parts))
    out = embed_to_file(embedder, images, tmp_path / "out.npz")
    assert seen in ([2, 1], [2])  # the last two batches, without the copy of an image that is there already
    assert np.load(out)["embeddings"].shape == (10, 192)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.png", "out.npz"]


def test_nothing_readable_is_an_error(embedder, with_bad, tmp_path):
    with pytest.raises(ValueError, match="None of the images could be read"):
        embed_to_file(embedder, with_bad[:3], tmp_path / "out.npz", on_error="skip")


def test_a_list_that_failed_at_once_may_be_mended(embedder, folder, tmp_path):
    images = find_images([folder])["path"].tolist()
    with pytest.raises(ImageReadError, match="Row 0: 'wrong' does not exist"):
        embed_to_file(embedder, ["wrong", *images], tmp_path / "out.npz")
    assert list(tmp_path.iterdir()) == []
    assert embed_to_file(embedder, images, tmp_path / "out.npz").is_file()


def test_what_is_in_the_way_is_named(embedder, folder, tmp_path):
    images = find_images([folder])
    out = embed_to_file(embedder, images[:2], tmp_path / "out.npz")
    with pytest.raises(FileExistsError, match=r"out\.npz' exists. Fix: overwrite=True, or another"):
        embed_to_file(embedder, images, out)


def _interrupt(path, table, pooled, names, made_by):
    if len(names) > 1:  # the table alone is tried first
        raise KeyboardInterrupt


def test_what_another_list_left_unfinished_is_used(embedder, folder, tmp_path, monkeypatch):
    images = find_images([folder])["path"].tolist()
    with monkeypatch.context() as patch:
        patch.setattr(bulk, "_write_npz", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            embed_to_file(embedder, images[:6], tmp_path / "new.npz")
    monkeypatch.setattr(encoder, "run_network", None)
    out = embed_to_file(embedder, images[5:2:-1], tmp_path / "new.npz")
    assert np.load(out)["path"].tolist() == images[5:2:-1]


def test_a_cache_of_ones_own_is_used_and_stays(folder, tmp_path, monkeypatch):
    images = find_images([folder])["path"].tolist()
    embedder = SAMLoRAEmbedder("vit_tiny", batch_size=3, cache_dir=tmp_path / "cache").fit(images)
    expected = embedder.transform(images).pooled
    monkeypatch.setattr(encoder, "run_network", None)
    out = embed_to_file(embedder, images, tmp_path / "new.npz")
    np.testing.assert_array_equal(np.load(out)["embeddings"], expected)
    np.testing.assert_array_equal(embedder.transform(images).pooled, expected)


def test_memory_holds_a_few_rows_at_a_time(embedder, folder, tmp_path, monkeypatch, pooled):
    monkeypatch.setattr(bulk, "_EMBEDDED_AT_ONCE", 4)
    monkeypatch.setattr(bulk, "_WRITTEN_AT_ONCE", 4)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    table = find_images([folder / "cells.csv"])
    images = [*table["path"][:5], str(bad), *table["path"][5:]]
    for suffix in READERS:
        out = embed_to_file(embedder, images, tmp_path / f"cells.{suffix}", on_error="skip")
        listed = pd.read_csv(f"{out}.errors.csv")
        assert listed["row"].tolist() == [5]
        assert listed["error"][0].startswith("Row 5: ")
    np.testing.assert_allclose(np.load(tmp_path / "cells.npz")["embeddings"], pooled, atol=0.05)
    np.testing.assert_array_equal(pd.read_csv(tmp_path / "cells.csv")["path"], table["path"])


WRONG = {
    "npz": {"embeddings": ["x"] * 4},
    "parquet": {"patient": pd.Series([1, 2, 3, "A4"], dtype=object)},
    "h5ad": {"control": pd.Series([None, None, True, False], dtype=object)},
    "csv": {"quality_area": [1] * 4},
}


@pytest.mark.parametrize("suffix", WRONG)
def test_columns_that_do_not_fit_are_refused_before_anything_is_computed(
    embedder, folder, tmp_path, monkeypatch, suffix
):
    monkeypatch.setattr(encoder, "run_network", None)
    table = pd.DataFrame({"path": find_images([folder])["path"][:4], **WRONG[suffix]})
    with pytest.raises(ValueError, match=r"column.*Fix:"):
        embed_to_file(embedder, table, tmp_path / f"a.{suffix}")
    assert list(tmp_path.iterdir()) == []


ODD = {
    "mixed": pd.Series([1, 2, 3, "A4"], dtype=object),
    "time": pd.Series([pd.Timestamp("2026-01-01 12:00:00.5", tz="Europe/Berlin"), *[pd.NaT] * 3]),
    "list": pd.Series([[1, 2], [3], [], None], dtype=object),
    "decimal": pd.Series([Decimal("1.10"), Decimal("2.25"), None, Decimal("4.00")], dtype=object),
    "category": pd.Series(["a", None, "b", "a"], dtype="category"),
    "empty": pd.Series([None] * 4, dtype=object),
    "control": pd.Series([True, None, False, True], dtype="boolean"),
    "count": pd.Series([1, None, 3, 9_007_199_254_740_993], dtype="Int64"),
    "label": pd.Series(["None", None, "NA", "nan"], dtype=object),
    "accession": pd.Series(["20230114000123457", "007", "1E5", ""]),
    "value": pd.Series([0.1234567890123456, 1e300, np.nan, -0.1]),
    "flag": pd.Series([True, False, True, False]),
}
REFUSED = {
    "parquet": {"mixed"},
    "csv": set(),
    "npz": {"control", "count"},
    "h5ad": {"mixed", "time", "list", "decimal"},
}


def _text(column):
    return [
        "" if value is None or value is pd.NaT or value is pd.NA or value != value else str(value) for value in column
    ]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("suffix", READERS)
def test_a_column_of_any_type_is_written_as_it_is_or_refused_before_anything_is_computed(
    embedder, folder, tmp_path, monkeypatch, suffix, name
):
    table = pd.DataFrame({"path": find_images([folder])["path"][:4], name: ODD[name]})
    out = tmp_path / f"a.{suffix}"
    if name in REFUSED[suffix]:
        monkeypatch.setattr(encoder, "run_network", None)
        with pytest.raises(ValueError, match=rf"A column of the table does not fit into \.{suffix}: .*Fix: "):
            embed_to_file(embedder, table, out)
        assert list(tmp_path.iterdir()) == []
        return
    embed_to_file(embedder, table, out)
    if suffix == "parquet":
        written = [value.tolist() if isinstance(value, np.ndarray) else value for value in pd.read_parquet(out)[name]]
        assert _text(written) == _text(table[name])
    elif suffix == "h5ad":
        assert _text(anndata.read_h5ad(out).obs[name]) == _text(table[name])
    elif suffix == "csv":
        assert pd.read_csv(out, dtype=str, keep_default_na=False)[name].tolist() == _text(table[name])
    else:
        assert _text(np.load(out)[name]) == _text(table[name])


def test_text_with_gaps_is_written_whichever_images_can_be_read(embedder, folder, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    table = pd.DataFrame({"path": [bad, *find_images([folder])["path"][:3]], "note": ["a", "a", None, "b"]})
    out = embed_to_file(embedder, table, tmp_path / "a.h5ad", on_error="skip")
    assert _text(anndata.read_h5ad(out).obs["note"]) == ["a", "", "b"]


@pytest.mark.parametrize("name", ["samloraembedder0", "quality_confidence", "made_by"])
@pytest.mark.parametrize("suffix", READERS)
def test_a_column_with_a_name_of_the_file_s_own_is_refused(embedder, folder, tmp_path, monkeypatch, suffix, name):
    monkeypatch.setattr(encoder, "run_network", None)
    table = pd.DataFrame({"path": find_images([folder])["path"][:4], name: 1})
    with pytest.raises(ValueError, match=f"Got the column.s. {name}, whose names the file uses itself. Fix: rename"):
        embed_to_file(embedder, table, tmp_path / f"a.{suffix}")


def test_a_column_that_is_there_twice_is_named(embedder, tmp_path):
    table = pd.DataFrame([["a.png", 1, 2]], columns=["path", "age", "age"])
    with pytest.raises(ValueError, match=r"Got the column\(s\) age twice\. Fix: rename or remove"):
        embed_to_file(embedder, table, tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", READERS)
def test_a_path_that_is_not_utf8_is_written_or_refused_before_anything_is_computed(
    embedder, folder, tmp_path, monkeypatch, suffix
):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/K\xf6ln.png")
    Path(odd).write_bytes(Path(find_images([folder])["path"][0]).read_bytes())
    out = tmp_path / "out" / f"a.{suffix}"
    if suffix == "npz":
        assert np.load(embed_to_file(embedder, [odd], out))["path"].tolist() == [odd]
        return
    monkeypatch.setattr(encoder, "run_network", None)
    with pytest.raises(
        ValueError, match=r"Row 0: the path b'.*K\\xf6ln\.png' is not UTF-8, which .* must be\. Fix: rename 1"
    ):
        embed_to_file(embedder, [odd], out)


def test_a_list_of_unreadable_files_may_hold_any_name(embedder, folder, tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/K\xf6ln.png")
    Path(odd).write_bytes(b"")
    out = embed_to_file(embedder, [odd, *find_images([folder])["path"][:1]], tmp_path / "a.npz", on_error="skip")
    assert pd.read_csv(f"{out}.errors.csv")["path"][0].endswith(r"K\udcf6ln.png")


def test_paths_of_every_kind_and_from_an_iterator(embedder, folder, tmp_path):
    assert find_images(iter([folder / "lab_a"]))["path"].equals(find_images(os.fsencode(folder / "lab_a"))["path"])
    images = find_images([folder])["path"].tolist()[:3]
    given = (kind(image) for kind, image in zip((Path, os.fsencode, str), images, strict=True))
    assert np.load(embed_to_file(embedder, given, tmp_path / "a.npz"))["path"].tolist() == images
    table = pd.DataFrame({"path": [Path(image) for image in images]})
    assert pd.read_parquet(embed_to_file(embedder, table, tmp_path / "a.parquet"))["path"].tolist() == images


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, "", pd.NaT])
def test_a_missing_path_names_its_row(embedder, tmp_path, missing):
    table = pd.DataFrame({"path": pd.Series(["a.png", missing], dtype=object)})
    with pytest.raises(ValueError, match=r"Row 1: the path is missing\. Fix: fill it in"):
        embed_to_file(embedder, table, tmp_path / "a.npz", on_error="skip")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([np.zeros((4, 4, 3), np.uint8)], "Row 0: Got a ndarray but expected a path. Fix: save"),
        (Bunch(paths=["a.png"]), "Got images of type Bunch but expected an iterable of paths. Fix: .*paths"),
        (b"a.png", "expected a list of paths"),
    ],
)
def test_what_is_no_list_of_paths_is_named(embedder, tmp_path, images, message):
    with pytest.raises(TypeError, match=message):
        embed_to_file(embedder, images, tmp_path / "a.npz")


def test_an_image_that_is_not_there_is_named_before_anything_is_computed(embedder, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder, "run_network", None)
    images = find_images([folder])["path"].tolist()
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    for path, fix in (
        ("gone.png", "check the path"), (r"a\1.png", "Write / between"), ("~/1.png", "Write the home folder out"),
        (tmp_path / "broken.png", "check the path"),
    ):  # fmt: skip
        with pytest.raises(ImageReadError, match=rf"Row 10: '.*' does not exist\. Fix: {fix}"):
            embed_to_file(embedder, [*images, path], tmp_path / "a.npz")


def test_a_folder_in_the_place_of_the_file_is_named_before_anything_is_computed(
    embedder, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(encoder, "run_network", None)
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(IsADirectoryError, match=r"a\.npz' is a folder\. Fix: name a file in it"):
        embed_to_file(embedder, find_images([folder]), tmp_path / "a.npz", overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"not written\. Fix: "):
        embed_to_file(embedder, find_images([folder]), tmp_path / "file" / "a.npz")


def test_the_list_of_unreadable_files_is_never_that_of_another_run(embedder, folder, with_bad, tmp_path):
    out = embed_to_file(embedder, with_bad, tmp_path / "a.npz", on_error="skip")
    errors = tmp_path / "a.npz.errors.csv"
    assert len(pd.read_csv(errors)) == 4
    out.unlink()
    with pytest.raises(ImageReadError, match="Row 0: "):
        embed_to_file(embedder, with_bad, out)
    assert not errors.exists()


def test_what_cannot_be_tidied_up_does_not_make_finished_work_an_error(embedder, folder, tmp_path, monkeypatch):
    remove = bulk.remove

    def refuse(path):
        if path.is_dir():
            raise OSError(16, "Device or resource busy", str(path))
        remove(path)

    monkeypatch.setattr(bulk, "remove", refuse)
    with pytest.warns(
        UserWarning,
        match=r"a\.npz' is complete, but '.*unfinished' could not be deleted: Device or resource busy",
    ):
        out = embed_to_file(embedder, find_images([folder]), tmp_path / "a.npz")
    assert len(np.load(out)["path"]) == 10


def test_columns_of_every_kind_are_kept(embedder, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "_EMBEDDED_AT_ONCE", 2)
    monkeypatch.setattr(bulk, "_WRITTEN_AT_ONCE", 2)
    own = {"control": pd.Series([None, None, True, False], dtype=object), "file": list("abcd"), "area": 1000.0}
    table = pd.DataFrame({"path": find_images([folder])["path"][:4], **own})
    written = pd.read_parquet(embed_to_file(embedder, table, tmp_path / "a.parquet"))
    assert written["control"].tolist() == [None, None, True, False]
    assert written["area"].tolist() == [1000.0] * 4
    assert np.load(embed_to_file(embedder, table, tmp_path / "a.npz"))["file"].tolist() == list("abcd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out": "cells.xlsx"}, "expected a name that ends in .parquet, .* Fix: write to cells.parquet."),
        ({"on_error": "ignore"}, "expected 'raise' or 'skip'. Fix: on_error='skip' leaves"),
        (
            {"images": pd.DataFrame({"file": ["a.png"]})},
            "Got 1 images and the columns .'file'. but expected images in 'path'. Fix: pass",
        ),
        ({"images": []}, "Got 0 images"),
    ],
)
def test_bad_arguments_are_named(embedder, tmp_path, change, message):
    arguments = {"images": ["a.png"], "out": "cells.npz"} | change
    with pytest.raises(ValueError, match=message):
        embed_to_file(embedder, **arguments | {"out": tmp_path / arguments["out"]})


def test_a_missing_library_is_named(embedder, tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "import_module", lambda name: exec("raise ImportError(name)"))
    with pytest.raises(ImportError, match=r'Fix: pip install "sam-bloodcell\[anndata\]"'):
        embed_to_file(embedder, ["a.png"], tmp_path / "cells.h5ad")


def test_images_are_found(folder, tmp_path):
    found = find_images([folder / "lab_b", folder / "lab_a"])
    assert len(found) == 10
    assert found["path"].tolist()[:5] == sorted(found["path"][:5])
    assert not found["path"].str.contains("_mask").any()
    one = found["path"][3]
    table = find_images([one, folder / "cells.csv"])
    assert table["path"].tolist()[0] == one
    assert set(table["path"][1:]) == set(found["path"])
    assert table["label"].notna().sum() == 10
    (tmp_path / "bad.csv").write_text("file\na.png\n")
    (tmp_path / "none").mkdir()
    for source, message in (
        (tmp_path / "bad.csv", r"lacks the column\(s\) path"),
        (tmp_path / "none", "contains no image"),
    ):
        with pytest.raises(ValueError, match=message):
            find_images([source])


def test_tables_are_read_as_load_cells_reads_them(folder, tmp_path):
    image = find_images([folder])["path"][0]
    for name, mark in (("cells.CSV", ","), ("cells.tsv", "\t")):
        rows = [["path", "domain", "label", "group", "accession"], [image, "NA", "None", "007", "20230114000123457"]]
        (tmp_path / name).write_text("\n".join(mark.join(row) for row in rows))
        found, cells = find_images(tmp_path / name, root="/"), load_cells(tmp_path / name, root="/")
        assert found.iloc[0].tolist() == rows[1]
        assert [cells.domain[0], cells.target_names[0], cells.group[0]] == rows[1][1:4]


@pytest.mark.parametrize(
    "content", [b"", b"path,label\n", "path,label\n1.png,c\u00e9l\n".encode("cp1252"), b"path;label\n"]
)
def test_a_table_that_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / "cells.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"cells\.csv' .*Fix: "):
        find_images(tmp_path / "cells.csv")


@pytest.mark.parametrize("name", ["cells.txt", "cells.xlsx", "cells.PARQUET"])
def test_other_tables_are_no_images(tmp_path, name):
    (tmp_path / name).write_text("path,label\n1.png,lym\n")
    with pytest.raises(ValueError, match=rf"{name}' is not an image\. Fix: if it is a table, save it as \.csv"):
        find_images(tmp_path / name)


def test_a_folder_that_holds_more_than_its_images_is_told(folder, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.svs").touch()
    with pytest.raises(ValueError, match=r"contains no image .*It contains: .*\(\.svs\): 1 \(1 in 'a'\)"):
        find_images(tmp_path)
    (tmp_path / "2.png").touch()
    with pytest.warns(UserWarning, match="Some files of"):
        assert len(find_images(tmp_path)) == 1


@pytest.mark.parametrize(
    ("sources", "message"),
    [([], "Got no sources"), ("", "Got no sources"), ("~/cells", "does not exist. Fix: .*Write the home folder out")],
)
def test_sources_that_are_not_there_are_named(sources, message):
    with pytest.raises(ValueError, match=message):
        find_images(sources)


@pytest.mark.slow
def test_processes_write_the_same_rows_in_order(embedder, folder, pooled, tmp_path):
    table = find_images([folder / "cells.csv"])
    out = embed_to_file(
        SAMLoRAEmbedder("vit_tiny", batch_size=3, n_jobs=2).fit(table["path"]), table, tmp_path / "a.npz"
    )
    np.testing.assert_allclose(np.load(out)["embeddings"], pooled, atol=1e-3)


def test_laboratory_and_class_of_a_folder_become_columns(folder, tmp_path):
    table, cells = find_images(folder), load_cells(folder)
    assert list(table) == ["path", "domain", "label"]
    assert table["path"].tolist() == cells.paths
    assert table["domain"].tolist() == cells.domain.tolist()
    assert table["label"].tolist() == cells.labels.tolist()
    assert list(find_images(folder / "lab_a")) == ["path"], "it has no laboratories"
    both = find_images([folder, folder / "lab_a"])
    assert both["domain"].isna().sum() == len(both) - len(table)


def test_features_have_one_name_everywhere(embedder, folder, tmp_path):
    names = embedder.get_feature_names_out().tolist()
    assert names[:2] == ["samloraembedder0", "samloraembedder1"]
    table = find_images(folder)[:2]
    embeddings = embedder.transform(table)
    written = [
        embed_to_file(embedder, table, tmp_path / f"cells{suffix}") for suffix in (".parquet", ".csv", ".h5ad", ".npz")
    ]
    found = {
        "parquet": pd.read_parquet(written[0]).columns[-192:],
        "csv": pd.read_csv(written[1]).columns[-192:],
        "h5ad": anndata.read_h5ad(written[2]).var_names,
        "npz": np.load(written[3])["features"],
        "to_frame": embeddings.to_frame().columns[:192],
        "to_frame of some rows": embeddings[:1].to_frame().columns[:192],
        "to_anndata": embeddings.to_anndata().var_names,
        "set_output": clone(embedder).set_output(transform="pandas").fit(table).transform(table).columns,
    }
    assert {where: list(columns) == names for where, columns in found.items()} == dict.fromkeys(found, True)


def test_features_of_other_models_do_not_bear_the_name_of_ours():
    embeddings = CellEmbeddings.from_arrays(np.ones((2, 2)), domain=["a", "b"])
    assert list(embeddings.to_frame()) == ["embedding_0", "embedding_1", "domain"]
    assert list(embeddings.to_anndata().var_names) == ["embedding_0", "embedding_1"]
