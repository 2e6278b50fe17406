import sys
from types import SimpleNamespace

from typer.testing import CliRunner

from sam_bloodcell.cli import app, examination
from sam_bloodcell.weights.backbones import HUB_BACKBONES


def findings():
    return {finding.what: finding for finding in examination.examine()}


def test_this_machine_is_described(hub_server, monkeypatch):
    monkeypatch.setattr(examination.constants, "ENDPOINT", hub_server.url)
    found = findings()
    assert found["vit_tiny"].found == "packaged, intact"
    assert found["Hugging Face Hub"].found == "reachable"
    assert found["extra masks"].found == "installed"
    assert found["python, torch"].found.startswith(sys.version.split()[0])
    assert {f"extra {name}" for name in examination.EXTRAS} <= set(found)


def test_what_is_wrong_comes_with_what_to_do(monkeypatch):
    monkeypatch.setattr(examination.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(examination.torch, "get_num_threads", lambda: 999)
    monkeypatch.setattr(examination.devices, "half_dtype", lambda device: None)
    monkeypatch.setattr(examination, "EXTRAS", {"nonsense": "no_such_module"})
    pools = [{"user_api": "openmp", "prefix": prefix} for prefix in ("libgomp", "libiomp")]
    monkeypatch.setattr(examination, "threadpool_info", lambda: pools)
    monkeypatch.setattr(examination, "load_backbone", lambda backbone: (_ for _ in ()).throw(ValueError("cut short")))
    found = findings()
    for what, fix in {
        "device": "float32",
        "threads": "OMP_NUM_THREADS=",
        "OpenMP": "one source",
        "vit_tiny": "install sam-bloodcell again",
        "Hugging Face Hub": "HF_ENDPOINT",
        "extra nonsense": r"pip install",
    }.items():
        assert fix in found[what].fix, what


def test_a_folder_without_a_package_is_no_installed_extra(monkeypatch, tmp_path):
    (tmp_path / "notes_only").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(examination, "EXTRAS", {"notes": "notes_only"})
    assert findings()["extra notes"].found == "not installed"


def test_offline_is_no_fault(monkeypatch):
    monkeypatch.setattr(examination.constants, "HF_HUB_OFFLINE", True)
    assert findings()["Hugging Face Hub"] == ("Hugging Face Hub", "offline by HF_HUB_OFFLINE", "")


def test_cached_weights_are_named(monkeypatch, tmp_path):
    pinned = HUB_BACKBONES["vit_b"][1]
    revisions = [SimpleNamespace(commit_hash=name, last_modified=at) for at, name in enumerate((pinned, "0" * 40))]

    repo = SimpleNamespace(repo_id="facebook/sam-vit-base", revisions=revisions)
    monkeypatch.setattr(examination, "scan_cache_dir", lambda: SimpleNamespace(repos=[repo]))
    assert findings()["weights in the cache"].found == (f"vit_b at {pinned[:8]} (the pinned one), vit_b at 00000000")


def test_the_command_prints_a_line_each(monkeypatch):
    monkeypatch.setattr(examination.constants, "HF_HUB_OFFLINE", True)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "packaged, intact" in result.output
