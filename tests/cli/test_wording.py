"""Messages of the library in the words of the command line."""

import pytest
import typer
from typer.testing import CliRunner

from sam_bloodcell.cli import app
from sam_bloodcell.cli.options import split_names
from sam_bloodcell.cli.wording import in_options, option_names

COMMANDS = typer.main.get_command(app).commands
BENCHMARK, EMBED = (option_names(COMMANDS[name].params) for name in ("benchmark", "embed"))


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("fewer than cv=5 cells in a domain", "fewer than 5 (--cv) cells in a domain"),
        ("Fix: lower cv, or leave it out.", "Fix: lower --cv, or leave it out."),
        ("see why with on_error='raise'.", "see why with --on-error raise."),
        ("Fix: set another cache_dir, on a disk", "Fix: set another --cache-dir, on a disk"),
        ("Fix: add cells, or lower cv.", "Fix: add cells, or lower --cv."),
        ("Fix: batch_size=4.", "Fix: --batch-size 4."),
        ("Got two folds (cv=2) but", "Got two folds (--cv 2) but"),
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
        "2 images are copies, such as cv cells/1.png",
        "'/data/O'Brien cv=5/1.png' is not an image. Fix: look at '/data/O'Brien cv/1.png'",
        '"/data/O\'Brien cv=5/1.png" is not an image. Fix: look at "/data/O\'Brien cv"',
        "Fix: leave root=None",
    ],
)
def test_paths_english_words_and_what_is_no_option_stay(message):
    assert in_options(message, BENCHMARK) == message


def test_without_options_nothing_changes():
    assert in_options("cv=5", {}) == "cv=5"


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [("--seed", "-1", "'--seed'"), ("--n-jobs", "0", "Fix: --n-jobs 1.")],
)
@pytest.mark.parametrize("command", ["benchmark", "train"])
def test_a_number_that_cannot_be_is_a_usage_error(command, option, value, told):
    result = CliRunner().invoke(app, [command, "cells", option, value], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert told in result.output


@pytest.mark.parametrize(
    ("text", "names"),
    [("lymphocyte, monocyte", ["lymphocyte", "monocyte"]), ("a b,c,", ["a b", "c"]), ("", None), (None, None)],
)
def test_names_are_separated_by_commas_with_or_without_spaces(text, names):
    assert split_names(text) == names
