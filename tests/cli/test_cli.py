"""The command line, run as a user would."""

import json
import os
import re
import runpy
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
import torch
import typer
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

import sam_bloodcell
from sam_bloodcell import CellClassifier, CrossDomainAutoencoder, SAMLoRAEmbedder, ViTEmbedder, segmentation
from sam_bloodcell.cli import app, options
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells
from sam_bloodcell.embedding import encoder
from sam_bloodcell.evaluation import benchmark
from sam_bloodcell.reproduce.published import PAPERS
from sam_bloodcell.segmentation import LoRATraining

DOCS = Path(__file__).parents[2] / "docs"
COMMANDS = [
    "demo", "check", "benchmark", "train", "predict", "adapt", "finetune", "embed", "reproduce", "cache info",
    "cache prune", "doctor", "download", "convert",
]  # fmt: skip


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def one_classifier(monkeypatch):
    """Fit one classifier in the place of seven, where which ones does not matter."""
    monkeypatch.setattr(benchmark, "default_classifiers", lambda seed: {"LR": LogisticRegression()})


@pytest.mark.slow
def test_demo_writes_table_and_report(tmp_path):
    result = run("demo", "--out", tmp_path, "--cells-per-class", 6, "--cv", 2, "--quiet")
    assert result.exit_code == 0, result.output
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert set(scores["features"]) == {"embeddings", "autoencoder"}
    assert set(scores["train_domain"]) == set(scores["test_domain"]) == {"lab_a", "lab_b"}
    assert {"RF", "SVM rbf", "MLP", "XGBoost"} <= set(scores["classifier"])
    assert "<img" in (tmp_path / "report.html").read_text()
    assert "report.html" in result.output


@pytest.mark.slow
def test_benchmark_keeps_the_classes_asked_for(tmp_path, one_classifier):
    table = save_cells(make_blood_cells(6, random_state=0), tmp_path / "cells")
    args = ("--classes", "lymphocyte,monocyte", "--cv", 2, "--quiet")
    result = run("benchmark", table, "--out", tmp_path / "out", *args)
    assert result.exit_code == 0, result.output
    assert "left out: 12 cells of class neutrophil" in result.output
    assert (pd.read_csv(tmp_path / "out" / "scores.csv")["n_classes"] == 2).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("always")
def test_benchmark_leaves_unreadable_images_out_when_told_to(tmp_path, one_classifier):
    table = save_cells(make_blood_cells(4, random_state=0), tmp_path / "cells")
    bad = Path(load_cells(table).paths[5])
    bad.write_bytes(b"no image")
    args = ("benchmark", table, "--out", tmp_path / "out", "--cv", 2, "--quiet")
    result = run(*args)
    assert result.exit_code == 1
    assert f"Error: Row 5: '{bad}' is not a readable image (8 bytes). Fix:" in result.output
    result = run(*args, "--on-error", "skip")
    assert result.exit_code == 0, result.output
    assert "Warning: 1 of 40 images cannot be read and are left out (rows 5); the first: " in result.output


@pytest.fixture
def not_embedded(monkeypatch):
    """Fail where an image goes through the network."""

    def refuse(*_):
        raise AssertionError("An image was embedded.")

    monkeypatch.setattr(encoder, "run_network", refuse)


@pytest.mark.parametrize(
    ("args", "in_the_way", "message"),
    [
        ((), "out", "so it was not written. Fix: free space there"),
        ((), "out/scores.csv/", "A folder is in the place of the file. Fix: move the folder"),
        ((), "out/figures", "so it was not written. Fix: free space there"),
        (
            ("--preset", "bc-sam", "--architecture", "vector"),
            "",
            "Got embedding_weight=0.0 (from --preset bc-sam), but --architecture vector reconstructs",
        ),
        (("--device", "nonsense"), "", "nonsense"),
        (("--epochs", 3), "", "Got --epochs 3 but the linear autoencoder is solved at once, without epochs. Fix:"),
    ],
)
def test_benchmark_refuses_before_embedding(tmp_path, args, in_the_way, message, one_classifier, not_embedded):
    table = save_cells(make_blood_cells(4, classes=["lymphocyte", "monocyte"], random_state=0), tmp_path / "cells")
    if in_the_way.endswith("/"):
        (tmp_path / in_the_way).mkdir(parents=True)
    elif in_the_way:
        (tmp_path / in_the_way).parent.mkdir(exist_ok=True)
        (tmp_path / in_the_way).write_text("")
    result = run("benchmark", table, "--out", tmp_path / "out", "--cv", 2, "--quiet", *args)
    assert result.exit_code == 1
    assert "Error: " in result.output
    assert message in result.output


@pytest.mark.slow
def test_benchmark_prints_its_scores_beside_chance(tmp_path, one_classifier):
    table = save_cells(make_blood_cells(4, classes=["lymphocyte", "monocyte"], random_state=0), tmp_path / "cells")
    args = ("--cv", 2, "--quiet", "--device", "cpu", "--batch-size", 3, "--n-jobs", 1)
    result = run("benchmark", table, "--out", tmp_path / "out", *args)
    assert result.exit_code == 0, result.output
    header = "features classifier pairs balanced_accuracy low high chance accuracy majority"
    assert header in " ".join(result.output.split())
    assert "features classifier label recall pairs" in " ".join(result.output.split())
    told = json.loads((tmp_path / "out" / "provenance.json").read_text("utf-8"))
    assert "batch_size=3" in told["embedder"]
    assert "device='cpu'" in told["embedder"]
    assert "device='cpu'" in told["autoencoder"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8 need Linux")
def test_a_file_whose_name_is_not_utf8_is_a_cell_like_any_other(tmp_path, one_classifier):
    drawn = make_blood_cells(4, domains=["lab_a", "lab_b"], classes=["lymphocyte", "monocyte"], random_state=0)
    save_cells(drawn, tmp_path / "cells")
    folder = tmp_path / "cells" / "lab_b" / "monocyte"
    image = next(folder.glob("*[0-9].png"))
    image.with_name(f"{image.stem}_mask.png").unlink()
    image.rename(folder / os.fsdecode(b"cell_\xff.png"))
    (tmp_path / "cells" / "cells.csv").unlink()
    result = run("benchmark", tmp_path / "cells", "--out", tmp_path / "out", "--cv", 2, "--quiet")
    assert result.exit_code == 0, result.output
    assert "LR" in (tmp_path / "out" / "scores.csv").read_text("utf-8")
    assert "lab_b" in (tmp_path / "out" / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_a_picture_that_fails_costs_no_score(tmp_path, one_classifier, monkeypatch):
    def fail(*_, **__):
        raise OSError("no font")

    table = save_cells(make_blood_cells(4, classes=["lymphocyte", "monocyte"], random_state=0), tmp_path / "cells")
    monkeypatch.setattr("sam_bloodcell.plotting.plot_cells", fail)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = run("benchmark", table, "--out", tmp_path / "out", "--cv", 2, "--quiet")
    assert result.exit_code == 0, result.output
    assert "Warning: The report lacks 1 picture(s) that could not be drawn: cells, OSError: no font." in result.output
    assert (tmp_path / "out" / "scores.csv").is_file()
    assert "This picture could not be drawn" in (tmp_path / "out" / "report.html").read_text("utf-8")


@pytest.mark.parametrize("command", ["benchmark", "demo", "embed", "reproduce"])
def test_whatever_embeds_takes_device_batch_size_and_jobs(command):
    options = {parameter.name for parameter in typer.main.get_command(app).commands[command].params}
    assert {"device", "batch_size", "n_jobs"} <= options
    assert command in ("demo", "embed") or "cache_dir" in options


@pytest.mark.slow
def test_benchmark_with_token_maps(tmp_path, one_classifier):
    table = save_cells(make_blood_cells(4, classes=["lymphocyte", "monocyte"], random_state=0), tmp_path / "cells")
    args = ("--architecture", "conv", "--out", tmp_path / "out", "--cv", 2, "--epochs", 1, "--quiet")
    result = run("benchmark", table, *args)
    assert result.exit_code == 0, result.output
    assert set(pd.read_csv(tmp_path / "out" / "scores.csv")["features"]) == {"embeddings", "autoencoder"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("benchmark", "nowhere.csv"), "'nowhere.csv' does not exist. Fix:"),
        (("download", "vit_x"), "Got backbone='vit_x' but expected one of vit_tiny, vit_b"),
    ],
)
def test_errors_are_one_line_and_exit_1(args, message):
    result = run(*args)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output


def test_every_command_is_listed_here():
    commands = typer.main.get_command(app).commands
    names = [
        f"{name} {sub}".strip()
        for name, command in commands.items()
        for sub in getattr(command, "commands", {"": None})
    ]
    assert sorted(names) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_and_describes_every_option(command):
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Example: sam-bloodcell {command}" in " ".join(result.output.split())
    target = typer.main.get_command(app)
    for name in command.split():
        target = target.commands[name]
    assert [parameter.name for parameter in target.params if not parameter.help] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_on_the_command_line_has_every_command_with_its_example(command):
    page = (DOCS / "command_line.md").read_text("utf-8")
    section = page.partition(f"\n## `{command}`\n")[2].partition("\n## ")[0]
    target = typer.main.get_command(app)
    for name in command.split():
        target = target.commands[name]
    example = re.search(r"Example: (.*)", " ".join(target.help.split()))[1]
    assert f"```sh\n{example}\n```" in section
    assert f"<!-- options: {command} -->" in section  # where the docs build writes them


def test_the_docs_build_lists_every_option_of_every_command():
    documented = runpy.run_path(str(DOCS / "command_options.py"))["documented"]()
    for command in COMMANDS:
        target = typer.main.get_command(app)
        for name in command.split():
            target = target.commands[name]
        options = {max(each.opts, key=len) for each in target.params if each.opts[0].startswith("--")}
        listed = re.findall(r"^\* `.*?(--[\w-]+).*?`: \S", documented[command], flags=re.MULTILINE)
        assert set(listed) == options | {"--help"}, command


def test_the_page_on_the_command_line_has_the_options_of_all_and_the_exit_codes():
    page = (DOCS / "command_line.md").read_text("utf-8")
    for text in ("`--version`", "`--install-completion`", "`--show-completion`", "| 0 |", "| 1 |", "| 2 |", "| 130 |"):
        assert text in page


def test_exit_codes_are_told_and_true():
    told = " ".join(run("--help").output.split())
    assert "Exit codes: 0 success; 1 an error, shown in one line that starts with 'Error:', or cells that" in told
    assert run("benchmark", "nowhere.csv").exit_code == 1
    assert run("benchmark", "nowhere.csv", "--no-such-option").exit_code == run("no-such-command").exit_code == 2


IMPORTED = """
import sys
from sam_bloodcell.cli import app
app(sys.argv[1:], standalone_mode=False)
print("heavy:", sorted({"numpy", "pandas", "sklearn", "torch"} & set(sys.modules)))
"""


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["benchmark", "--help"]], ids=" ".join)
def test_help_and_version_import_nothing_heavy(in_subprocess, args):
    assert "heavy: []" in in_subprocess(IMPORTED, *args)


@pytest.mark.slow
def test_check_needs_no_torch(tmp_path, in_subprocess):
    table = save_cells(make_blood_cells(5, classes=["lymphocyte", "monocyte"], image_size=32), tmp_path)
    assert "heavy: ['numpy', 'pandas', 'sklearn']" in in_subprocess(IMPORTED, "check", table)


def test_the_version_is_told():
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"sam-bloodcell {sam_bloodcell.__version__}\n")


def test_the_shell_completes_commands_and_choices(tmp_path):
    def completed(*words):
        env = {"_SAM_BLOODCELL_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": len(words) - 1}
        done = subprocess.run(
            [sys.executable, "-m", "sam_bloodcell"], capture_output=True, text=True, timeout=60, check=False,
            env=os.environ | {name: str(value) for name, value in env.items()},
        )  # fmt: skip
        return done.stdout.split()

    assert completed("sam-bloodcell", "ben") == ["benchmark"]
    assert completed("sam-bloodcell", "benchmark", "--architecture", "") == [
        "auto",
        "linear",
        "vector",
        "conv",
        "masked",
    ]
    shown = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m sam_bloodcell --show-completion; exit $?"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "complete_bash" in shown.stdout, shown.stderr


@pytest.mark.parametrize(
    ("args", "choices"),
    [
        (("benchmark", "cells", "--architecture", "cnov"), "'auto', 'linear', 'vector', 'conv', 'masked'"),
        (("demo", "--preset", "bcsam"), "'bc-sam', 'dorl'"),
        (("benchmark", "cells", "--on-error", "nan"), "'raise', 'skip'"),
        (("embed", "cells", "--on-error", "nan"), "'raise', 'skip'"),
        (("finetune", "cells", "--masks", "x"), "'given', 'auto'"),
        (("reproduce", "sam", "--matek", "a", "--acevedo", "b"), "'bc-sam', 'dorl'"),
    ],
)
def test_a_wrong_choice_is_a_usage_error_that_names_the_choices(args, choices):
    result = run(*args)
    assert result.exit_code == 2
    assert f"is not one of {choices}" in " ".join(result.output.split())


def test_the_choices_are_those_of_the_library():
    known = CrossDomainAutoencoder._parameter_constraints
    assert set(get_args(options.Architectures)) == known["architecture"][0].options
    assert set(get_args(options.Presets)) == known["preset"][0].options == set(PAPERS)
    poolings = [kind._parameter_constraints["pooling"][0].options for kind in (SAMLoRAEmbedder, ViTEmbedder)]
    assert set(get_args(options.Poolings)) == set.union(*map(set, poolings))


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("demo", "cache info", "cache prune")])
def test_the_help_names_the_backbone_that_is_the_default(command):
    parameters = {each.name: each for each in typer.main.get_command(app).commands[command].params}
    if "backbone" in parameters:
        default, help_ = parameters["backbone"].default, parameters["backbone"].help
        default = default[0] if isinstance(default, list) else default
        assert re.search(rf"{default}( \([^)]*the default\))", help_), help_


@pytest.mark.slow
def test_output_is_plain_when_it_is_piped(capfd):
    """No colours, no boxes, no progress bars on the standard output."""
    for args in (["--help"], ["benchmark", "nowhere.csv"], ["benchmark"]):
        done = subprocess.run(
            [sys.executable, "-m", "sam_bloodcell", *args], capture_output=True, text=True, timeout=60, check=False
        )
        for text in (done.stdout, done.stderr):
            assert text.isascii(), text
            assert "\x1b" not in text


@pytest.mark.slow
@pytest.mark.filterwarnings("always")
def test_finetune_writes_an_adapter_that_loads(tmp_path, monkeypatch):
    # A rate at which nothing is learned: the command has to say so.
    monkeypatch.setattr(segmentation, "LoRATraining", partial(segmentation.LoRATraining, learning_rate=0.5))
    table = save_cells(make_blood_cells(1, random_state=0), tmp_path / "cells")
    frame = pd.read_csv(table, keep_default_na=False)
    frame.loc[:6, "mask"] = ""
    frame.to_csv(table, index=False)
    args = ("finetune", table, "--epochs", 1, "--lora-rank", 2, "--quiet", "--out", tmp_path / "adapter")
    result = run(*args)
    assert result.exit_code == 0, result.output
    assert "Warning: 7 of 10 cells have no mask and are left out" in result.output
    assert "Warning: The LoRA factors start fresh: " in result.output
    assert re.search(
        r"The fine-tuning did not improve the masks: Dice \d\.\d+ on the held-out cells before it, \d\.\d+ after its "
        r"best epoch, .* Fix: keep the weights that you started from",
        result.output,
    )
    made = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "README.md", "history.csv"} <= made
    assert "unfinished.pt" not in made
    embedder = SAMLoRAEmbedder.from_pretrained(tmp_path / "adapter")
    assert embedder.adapter_.lora_config["r"] == 2
    assert embedder.transform(load_cells(table).paths[:1]).shape == (1, 192)


def test_finetune_refuses_a_plain_vit_at_once(tmp_path, vit_file, monkeypatch):
    table = save_cells(make_blood_cells(1, random_state=0), tmp_path / "cells")
    monkeypatch.setattr(LoRATraining, "run", lambda *args, **params: pytest.fail("the masks are made"))
    result = run("finetune", table, "--masks", "auto", "--backbone", vit_file, "--out", tmp_path / "adapter")
    assert result.exit_code == 1
    assert f"Error: Got --backbone {vit_file}, a plain ViT, but only Segment Anything is fine-tuned" in result.output
    assert not (tmp_path / "adapter").exists()


@pytest.mark.slow
def test_finetune_without_masks_makes_them_when_told_to(tmp_path):
    table = save_cells(make_blood_cells(1, random_state=0), tmp_path / "cells")
    pd.read_csv(table).drop(columns="mask").to_csv(table, index=False)
    args = ("finetune", table, "--epochs", 1, "--quiet", "--out", tmp_path / "adapter")
    result = run(*args)
    assert result.exit_code == 1
    assert "Error: None of the 10 cells has a mask. Fix:" in result.output
    assert result.output.endswith("or make them from the stain with --masks auto.\n")
    result = run(*args, "--masks", "auto")
    assert result.exit_code == 0, result.output


@pytest.mark.slow
@pytest.mark.cells
@pytest.mark.filterwarnings("default:Left out classes")
def test_benchmark_on_real_cells(cells_root, tmp_path):
    """A few cells of each class from the three real laboratories: the 3x3 table, and rare classes said."""
    table = pd.read_csv(cells_root / "cells.csv", keep_default_na=False)
    table["path"] = [str(cells_root / path) for path in table["path"]]
    table["mask"] = ""
    few = table.groupby(["domain", "label"], sort=False).head(6)
    few.to_csv(tmp_path / "cells.csv", index=False)
    classes = "neutrophil,lymphocyte,monocyte,eosinophil,basophil"
    args = ("--root", cells_root, "--classes", classes, "--out", tmp_path / "out", "--cv", 3, "--quiet")
    result = run("benchmark", tmp_path / "cells.csv", *args)
    assert result.exit_code == 0, result.output
    assert "Warning: Left out classes with fewer than 3 (--cv) cells" in result.output
    assert "'basophil' of domain 'tecom' (1 cell)" in result.output
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"intervals.csv", "recall_by_class.csv", "provenance.json", "report.html", "figures"} <= made
    labs = {"acevedo", "cellavision", "tecom"}
    assert set(zip(scores["train_domain"], scores["test_domain"], strict=True)) == {(a, b) for a in labs for b in labs}
    assert (scores.groupby(["features", "classifier", "train_domain", "test_domain"]).size() == 3).all()
    # tecom has one basophil: too few for three folds.
    trained_on_tecom = scores[(scores["train_domain"] == "tecom") & (scores["test_domain"] == "acevedo")]
    assert (trained_on_tecom["n_left_out"] == 6).all()
    assert (tmp_path / "out" / "report.html").stat().st_size > 100_000


@pytest.mark.slow
def test_download_fetches_for_later_offline_use(hub_server, in_subprocess):
    save_file({"image_encoder.pos_embed": torch.zeros(1, 2, 2, 2)}, hub_server.folder("lab/sam") / "model.safetensors")
    code = "from sam_bloodcell.cli import app; app(['download', 'lab/sam'])"
    fetched = Path(in_subprocess(code, HF_ENDPOINT=hub_server.url).strip())
    assert fetched.is_file()
    assert in_subprocess(code, HF_ENDPOINT=hub_server.url, HF_HUB_OFFLINE="1").strip() == str(fetched)


def test_embed_writes_a_file_and_goes_on_only_when_asked(tmp_path):
    table = save_cells(make_blood_cells(1, random_state=0), tmp_path / "cells")
    (tmp_path / "bad.png").write_bytes(b"")
    out = tmp_path / "cells.parquet"
    args = ("embed", table, tmp_path / "bad.png", "--out", out, "--quiet")
    assert "Row 10: " in run(*args).output
    result = run(*args, "--on-error", "skip")
    assert result.exit_code == 0, result.output
    written = pd.read_parquet(out)
    assert written.shape == (10, 4 + 6 + 192)
    assert written["domain"].value_counts().to_dict() == {"lab_a": 5, "lab_b": 5}
    assert len(pd.read_csv(f"{out}.errors.csv")) == 1
    again = run(*args, "--on-error", "skip")
    assert again.exit_code == 1
    assert f"Error: '{out}' exists. Fix: --overwrite, or another name." in again.output


def test_a_plain_vit_embeds_with_the_masks_of_an_adapter(tmp_path, vit_file):
    cells = make_blood_cells(1, domains=["lab_a"], random_state=0)
    table = save_cells(cells, tmp_path / "cells")
    result = run("embed", table, "--out", tmp_path / "cells.parquet", "--backbone", vit_file, "--quiet")
    assert result.exit_code == 0, result.output
    written = pd.read_parquet(tmp_path / "cells.parquet")
    assert written.filter(like="vitembedder").shape == (5, 64)
    tuned = SAMLoRAEmbedder("vit_tiny").fit(cells.images)
    lora = {name: 0.9 * factor for name, factor in tuned.adapter_.lora.items()}
    tuned.adapter_ = replace(tuned.adapter_, lora=lora)
    tuned.save_pretrained(tmp_path / "adapter")
    args = ("--backbone", vit_file, "--adapter", tmp_path / "adapter", "--image-size", 112, "--quiet")
    result = run("embed", table, "--out", tmp_path / "other.parquet", *args)
    assert result.exit_code == 0, result.output
    other = pd.read_parquet(tmp_path / "other.parquet")
    assert (other["quality_area"] != written["quality_area"]).any()
    result = run("embed", table, "--out", tmp_path / "no.parquet", "--backbone", vit_file, "--image-size", 100)
    assert "Fix: use 98." in result.output


def test_the_pooling_is_an_option_of_embed(tmp_path, vit_file):
    table = save_cells(make_blood_cells(1, domains=["lab_a"], random_state=0), tmp_path / "cells")
    args = ("embed", table, "--quiet", "--out", tmp_path / "cells.csv", "--overwrite")
    result = run(*args, "--pooling", "mask+texture")
    assert result.exit_code == 0, result.output
    assert pd.read_csv(tmp_path / "cells.csv").filter(like="samloraembedder").shape[1] == 576
    result = run(*args, "--backbone", vit_file, "--pooling", "both")
    assert result.exit_code == 0, result.output
    assert pd.read_csv(tmp_path / "cells.csv").filter(like="vitembedder").shape[1] == 128
    result = run(*args, "--pooling", "cls")
    assert "The 'pooling' parameter of SAMLoRAEmbedder must be a str among" in result.output


@pytest.mark.slow
def test_the_pooling_is_an_option_of_train_and_benchmark(tmp_path, one_classifier):
    table = save_cells(make_blood_cells(5, classes=["lymphocyte", "monocyte"], random_state=0), tmp_path / "cells")
    args = (table, "--quiet", "--pooling", "mask+texture", "--out")
    result = run("train", *args, tmp_path / "model")
    assert result.exit_code == 0, result.output
    result = run("benchmark", *args, tmp_path / "out", "--cv", 2)
    assert result.exit_code == 0, result.output
    assert "mask+texture" in json.loads((tmp_path / "out" / "provenance.json").read_text("utf-8"))["embedder"]
    for folder in (tmp_path / "model", tmp_path / "out" / "model"):
        assert CellClassifier.from_pretrained(folder).pipeline_[0].pooling_ == "mask+texture"


@pytest.mark.slow
def test_a_plain_vit_trains_and_is_benchmarked(tmp_path, vit_file, one_classifier):
    table = save_cells(make_blood_cells(4, classes=["lymphocyte", "monocyte"], random_state=0), tmp_path / "cells")
    result = run("train", table, "--out", tmp_path / "model", "--backbone", vit_file, "--quiet")
    assert result.exit_code == 0, result.output
    args = ("benchmark", table, "--out", tmp_path / "out", "--cv", 2, "--quiet", "--backbone", vit_file)
    result = run(*args, "--backbone", "vit_tiny", "--adapter", "some")
    assert "Error: Got --adapter and several --backbone. Fix: leave --adapter out" in result.output
    alone = save_cells(make_blood_cells(4, domains=["lab_a"], random_state=0), tmp_path / "one")
    result = run("benchmark", alone, "--out", tmp_path / "none", "--backbone", vit_file, "--backbone", "vit_tiny")
    assert "Error: Got several --backbone and one laboratory" in result.output
    result = run(*args, "--backbone", "vit_tiny")
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "out" / "provenance.json").read_text("utf-8"))
    assert told["encoders"] == f"{vit_file}, vit_tiny"
    assert (told["backbone"], told["vit_tiny: backbone"]) == (str(vit_file), "vit_tiny")
    assert told["recipe digest"] != told["vit_tiny: recipe digest"]
    encoders = pd.read_csv(tmp_path / "out" / "encoders.csv")
    assert encoders["encoder"].tolist() == [str(vit_file), "vit_tiny"]
    assert encoders["features"].tolist() == ["autoencoder", "autoencoder"]
    assert encoders["p_holm"].notna().tolist() == [False, True]
    assert "Encoders, with the difference of each to the first" in result.output
    assert "Encoders compared" in (tmp_path / "out" / "report.html").read_text("utf-8")
    for folder in (tmp_path / "model", tmp_path / "out" / "model"):
        assert CellClassifier.from_pretrained(folder).pipeline_[0].backbone_.name == str(vit_file)


@pytest.mark.parametrize("command", [["info"], ["prune", "--to", "0"]], ids=["info", "prune"])
def test_a_folder_that_is_no_cache_is_left_as_it_is(tmp_path, command):
    done = run("cache", command[0], tmp_path, *command[1:])
    assert done.exit_code == 1
    assert "does not contain a cache. Fix: name the folder that was given as --cache-dir." in done.output
    assert not list(tmp_path.iterdir())


def test_a_cache_is_shown_and_pruned(tmp_path):
    images = make_blood_cells(1, random_state=0).images
    SAMLoRAEmbedder("vit_tiny", cache_dir=tmp_path / "cache").fit(images).transform(images)
    shown = run("cache", "info", tmp_path / "cache").output
    assert "vit_tiny" in shown
    assert " 10 " in shown
    assert "expected a size" in run("cache", "prune", tmp_path / "cache", "--to", "much").output
    assert run("cache", "prune", tmp_path / "cache", "--to", "0").output.endswith("MB freed.\n")
    assert "empty" in run("cache", "info", tmp_path / "cache").output


def test_embed_tells_what_it_took_and_what_it_left(tmp_path):
    save_cells(make_blood_cells(1, random_state=0), tmp_path / "cells")
    (tmp_path / "cells" / "Thumbs.db").touch()
    result = run("embed", tmp_path / "cells", "--out", tmp_path / "a.npz", "--quiet")
    assert result.exit_code == 0, result.output
    told = "cells: 10 images in laboratory/class: columns domain (2) and label (5); not read: "
    assert told in result.stderr
    assert "masks: 10 (1 in 'lab_a/basophil', " in result.stderr
    assert "hidden and system files and folders: 1 (1 in '.')" in result.stderr
    assert result.stdout == f"{tmp_path / 'a.npz'}\n"


def test_embed_tells_that_a_flat_folder_has_no_laboratories_and_classes(tmp_path):
    save_cells(make_blood_cells(1, domains=["lab_a"], random_state=0), tmp_path / "cells")
    result = run("embed", tmp_path / "cells" / "lab_a", "--out", tmp_path / "a.csv", "--quiet")
    assert result.exit_code == 0, result.output
    assert "lab_a: 5 images, not all in folders of laboratory/class, so there are no columns domain" in result.stderr
    assert not {"domain", "label"} & set(pd.read_csv(tmp_path / "a.csv"))


def test_embed_does_not_replace_its_own_table(tmp_path):
    table = save_cells(make_blood_cells(1, domains=["lab_a"], random_state=0), tmp_path / "cells")
    before = table.read_text()
    result = run("embed", table, "--out", table, "--overwrite", "--quiet")
    assert result.exit_code == 1
    assert f"Error: Got '{table}' as input and output. Fix: write to another file." in result.output
    assert table.read_text() == before


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_what_a_console_cannot_show_is_no_error(tmp_path, encoding):
    save_cells(make_blood_cells(1, domains=["lab_a"], random_state=0), tmp_path / "cells")
    odd = tmp_path / "\u8840"
    for args, code in ((("embed", "cells", "--out", odd / "\u8840.npz"), 0), (("benchmark", odd / "cells.csv"), 1)):
        done = subprocess.run(
            [sys.executable, "-m", "sam_bloodcell", *map(str, args)], capture_output=True, timeout=120, check=False,
            cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert (b"\\u8840" if encoding == "cp1252" else odd.name.encode()) in done.stdout + done.stderr
        assert b"Traceback" not in done.stderr
    assert (odd / "\u8840.npz").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Got one domain")
def test_a_benchmark_of_one_laboratory_leaves_no_intervals_of_an_earlier_run(tmp_path, one_classifier):
    table = save_cells(make_blood_cells(4, classes=["lymphocyte", "monocyte"], random_state=0), tmp_path / "cells")
    alone = pd.read_csv(table).query("domain == 'lab_a'")
    alone.to_csv(table.with_name("one.csv"), index=False)
    options = ("--out", tmp_path / "out", "--cv", 2, "--quiet")
    assert run("benchmark", table, *options).exit_code == 0
    assert (tmp_path / "out" / "intervals.csv").is_file()
    assert run("benchmark", table.with_name("one.csv"), *options).exit_code == 0
    assert not (tmp_path / "out" / "intervals.csv").exists()


def test_pictures_do_not_become_cells(tmp_path):
    save_cells(make_blood_cells(1, image_size=32, random_state=0), tmp_path / "cells")
    result = run("benchmark", tmp_path / "cells", "--out", tmp_path / "cells" / "out")
    assert result.exit_code == 1
    assert "would be read as cells" in result.output
