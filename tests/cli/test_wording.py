"""Messages of the library in the words of the command line."""

import pytest
import typer

from sam_bloodcell.cli import app
from sam_bloodcell.cli.wording import in_options, option_names

COMMANDS = typer.main.get_command(app).commands
BENCHMARK, EMBED = (option_names(COMMANDS[name].params) for name in ("benchmark", "embed"))


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("fewer than cv=5 cells in a domain", "fewer than 5 (--cv) cells in a domain"),
        ("Fix: lower cv, or leave it out.", "Fix: lower --cv, or leave it out."),
        ("see why with on_error='raise'.", "see why with --on-error raise."),
        ("or set another cache_dir, on a disk", "or set another --cache-dir, on a disk"),
        ("Got device='cuda' but torch sees none", "Got --device cuda but torch sees none"),
        ("Fix: architecture=\"conv\", preset='dorl'.", "Fix: --architecture conv, --preset dorl."),
        ("for a larger one, root=... .", "for a larger one, --root ... ."),
        ("Got batch_size=0 but", "Got 0 (--batch-size) but"),
    ],
)
def test_arguments_become_options(message, told):
    assert in_options(message, BENCHMARK) == told


def test_a_flag_has_no_value():
    assert in_options("'out.csv' exists. Fix: overwrite=True, or another name.", EMBED) == (
        "'out.csv' exists. Fix: --overwrite, or another name."
    )


@pytest.mark.parametrize(
    "message",
    [
        "'/runs/cv=5/cache_dir/1.png' is no image",
        "the device of the seed, root and classes",
        "keep=('tokens',) or LoRATraining(learning_rate=1e-5) in Python",
        "Row 3: /data/cv=5/n_jobs.png",
        "the CSV's folder",
    ],
)
def test_paths_english_words_and_what_is_no_option_stay(message):
    assert in_options(message, BENCHMARK) == message


def test_without_options_nothing_changes():
    assert in_options("cv=5", {}) == "cv=5"
