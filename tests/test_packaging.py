"""What is said about the package in several places says the same."""

import importlib
import pkgutil
import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement
from tests.conftest import INTEGRATION

import sam_bloodcell
from sam_bloodcell.cli import app
from sam_bloodcell.cli.examination import EXTRAS

if sys.version_info < (3, 11):
    import tomli as tomllib  # pytest brings it
else:
    import tomllib

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MODULES = ["sam_bloodcell"] + [
    found.name for found in pkgutil.walk_packages(sam_bloodcell.__path__, prefix="sam_bloodcell.")
]
COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_there(name):
    module = importlib.import_module(name)
    names = getattr(module, "__all__", [])
    assert len(set(names)) == len(names)
    assert [public for public in names if not hasattr(module, public)] == []


def test_the_version_is_said_once():
    assert PROJECT["dynamic"] == ["version"]
    assert version("sam-bloodcell") == sam_bloodcell.__version__


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [sam_bloodcell.__version__]
    assert re.findall(r"^license: (.+)$", citation, re.MULTILINE) == [PROJECT["license"]]
    assert re.findall(r"^title: (.+)$", citation, re.MULTILINE) == [PROJECT["name"]]


def test_a_release_is_cited_with_its_date():
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    released = re.findall(rf"^## \[{re.escape(sam_bloodcell.__version__)}\] - (\S+)$", changelog, re.MULTILINE)
    assert re.findall(r"^date-released: (\S+)$", citation, re.MULTILINE) == released


def test_extras_that_messages_name_exist():
    sources = [path.read_text("utf-8") for path in SOURCES]
    for pattern in r"sam-bloodcell\[([\w,-]+)\]", r"\bextra=\"(\w+)\"":
        named = {extra for source in sources for extra in re.findall(pattern, source)}
        assert named
        assert named <= set(PROJECT["optional-dependencies"])


def test_doctor_knows_every_extra_that_users_have():
    for_us = {"all", "test", "docs", "dev"}
    assert set(EXTRAS) == set(PROJECT["optional-dependencies"]) - for_us


def test_every_dependency_has_a_lower_bound():
    extras = [needed for extra in PROJECT["optional-dependencies"].values() for needed in extra]
    requirements = [Requirement(text) for text in PROJECT["dependencies"] + extras]
    unbound = [
        requirement.name
        for requirement in requirements
        if requirement.name != PROJECT["name"] and ">=" not in str(requirement.specifier)
    ]
    assert unbound == []


@pytest.mark.parametrize("name", sorted(INTEGRATION))
def test_what_the_unit_tests_leave_out_exists(name):
    assert (ROOT / "tests" / name).exists()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "RELEASING.md", ".ci/run"])
def test_commands_that_pages_show_exist(page):
    text = (ROOT / page).read_text("utf-8")
    shown = re.findall(r"(?:^|`|&& |quietly [\w-]+ )sam-bloodcell ([a-z-]+)", text, re.MULTILINE)
    assert set(shown) <= set(COMMANDS)
    options = re.findall(r"sam-bloodcell ([a-z-]+)([^`\n&]*)", text)
    for command, rest in options:
        if command in COMMANDS and not hasattr(COMMANDS[command], "commands"):
            known = {option for parameter in COMMANDS[command].params for option in parameter.opts}
            assert set(re.findall(r"(?<!\S)--[a-z][a-z-]*", rest)) <= known | {"--help"}


def test_the_readme_shows_commands_at_all():
    shown = re.findall(r"sam-bloodcell ([a-z]+)", (ROOT / "README.md").read_text("utf-8"))
    assert {"demo", "doctor", "embed", "benchmark", "finetune", "reproduce"} <= set(shown)


LAZY = """
import sys
import sam_bloodcell
from sam_bloodcell.datasets import load_cells
assert "torch" not in sys.modules
assert set(sam_bloodcell.__all__) <= set(dir(sam_bloodcell))
sam_bloodcell.embedding.store.MEMORY.clear()
assert sam_bloodcell.SAMLoRAEmbedder is sam_bloodcell.embedding.embedder.SAMLoRAEmbedder
try:
    sam_bloodcell.no_such_name
except AttributeError as exc:
    print(exc)
"""


@pytest.mark.slow
def test_the_package_imports_torch_only_when_it_is_used(in_subprocess):
    assert in_subprocess(LAZY).strip() == "module 'sam_bloodcell' has no attribute 'no_such_name'"


@pytest.mark.slow
def test_the_datasets_come_without_torch(in_subprocess):
    code = "import sys; from sam_bloodcell import datasets; print('torch' in sys.modules, len(datasets.labels.SCHEMES))"
    assert in_subprocess(code).strip() == "False 2"


@pytest.mark.slow
def test_modules_of_a_package_that_was_not_imported_are_there(in_subprocess):
    code = "import sam_bloodcell as s; print(s.embedding.store.__name__, s.models.sam.__name__)"
    assert in_subprocess(code).strip() == "sam_bloodcell.embedding.store sam_bloodcell.models.sam"
