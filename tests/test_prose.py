"""Pages, docstrings, messages and help texts are in plain English: none of them has a known mistake."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "training/README.md")),
    *(page for folder in ("docs", "docs/howto", "docs/results") for page in (ROOT / folder).glob("*.md")),
    *(ROOT / "src").rglob("*.html.j2"),
]  # fmt: skip
MODULES = sorted((ROOT / "src").rglob("*.py"))

# What to write instead, and the pattern. CONTRIBUTING.md has the vocabulary.
INSTEAD = {
    "is not a": r"(?<!there )\b(is|are|was|were) no (?!longer\b|more\b|better\b|worse\b|less\b|one\b)",
    "also": r"\b(do|does|did|is|are), too\b|, too[.:;)|]|\balone do\b|\bas are\b",
    "resumes if interrupted": r"\bgo(es)? on\b|\bafter a kill\b|\bcontinues there\b",
    "near-constant memory": r"\bflat memory\b",
    "created if missing": r"\bif need be\b",
    "maximum number": r"\bso then many\b|\bas many as make\b",
    "two, or a pair": r"\bcouples? of\b|\bcouple\(s\)",
    "the name of the parameters": r"\bparameters (up|down) to\b",
    "the plain word": r"\b(houses?|rooms?|gates?|doors?|riddles?|newcomer|stumbles?)\b",
    "the noun": r"\bto be it\b|\bwhat came\b|\btoo few for what\b|\bwaited for for\b",
    "is given by, contains": r"\b(brings?|brought) along\b|\bhands? on\b|\bhanded on\b",
    "otherwise": r"[;,] else\b",
    "reads as": r"\b(takes?|took|taken) (it |them )?for (a|an|the|one|cells)\b",
}
# A description says what a parameter is before how it relates to another one.
FIELD = re.compile(r"^ +[*\w][*\w, ]* : .+\n +(?P<found>(?:As|Of|From|With|Those|That|Which|Whose)\b.*)", re.M)
TWICE = re.compile(r"(?<!-)\b(?!that\b|had\b)([a-z]+) \1\b")


def prose_of(page):
    """Return the text of a page, without code."""
    text = re.sub(r"^```.*?^```$|<style.*?</style>|\{[%#].*?[%#]\}|<[^>]*>", " ", page.read_text(), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`|\]\([^)]*\)", " _ ", text)


def prose_in(module):
    """Yield the docstrings and the texts of three words or more of a module, with their lines."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "_" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) > 2:
            yield node.lineno, re.sub(r"`[^`\n]*`|^ *(>>>|\.\.\.).*$", " _ ", node.value, flags=re.M)


def faults(text):
    """Return what is not plain English in a text, with what to write instead."""
    flat = " ".join(text.split())
    found = [(fix, match) for fix, pattern in INSTEAD.items() for match in re.finditer(pattern, flat, re.I)]
    told = [f"{flat[max(0, match.start() - 30) : match.end() + 20]!r}: write {fix!r}" for fix, match in found]
    told += [f"{found[0]!r}: write it once" for found in TWICE.finditer(text)]
    return told + [f"{found['found']!r}: begin with a noun" for found in FIELD.finditer(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_in_plain_english(page):
    assert faults(prose_of(page)) == []


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(ROOT / "src")))
def test_docstrings_and_messages_are_in_plain_english(module):
    assert [f"line {line}: {fault}" for line, text in prose_in(module) for fault in faults(text)] == []


@pytest.mark.parametrize("text", ["It is no picture.", "It goes on after a kill.", "Wait for for it.", "See it, too."])
def test_patterns_are_found(text):
    assert faults(text) != []


def test_numbered_stages_are_those_of_the_training_of_vit_tiny():
    """The parts of the method and of a reproduction have names, so that nobody confuses them with these stages."""
    about_training = {"vit_tiny.md", "CHANGELOG.md"}
    pages = [page for page in PAGES if page.name not in about_training and page.parent.name != "training"]
    texts = {page: page.read_text() for page in (*pages, *MODULES, *(ROOT / "examples").glob("*.py"))}
    assert [str(page) for page, text in texts.items() if re.search(r"\bstages? ?[0-9]", text, re.I)] == []
