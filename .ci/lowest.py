"""Print the lowest version of each dependency that pyproject.toml promises to work, as pip constraints.

python .ci/lowest.py > lowest.txt
pip install -c constraints.txt -c lowest.txt -e ".[test]"

PyTorch stays at the version of constraints.txt, and what only tests, docs or developers use at its newest.
"""

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
TOOLS = {"test", "docs", "dev"}  # extras of who works on the project
LOWER_BOUND = re.compile(r"(?P<name>[\w.-]+)(\[.*?\])?>=(?P<version>[\w.]+)")

requirements = PROJECT["dependencies"] + [
    requirement
    for extra, needed in PROJECT["optional-dependencies"].items()
    if extra not in TOOLS
    for requirement in needed
    if not requirement.startswith(PROJECT["name"])
]
for requirement in requirements:
    bound = LOWER_BOUND.match(requirement)
    if bound is None:
        raise SystemExit(f"Got {requirement!r} but expected a lower bound, as in 'numpy>=1.26'.")
    if bound["name"] != "torch" and "python_version <" not in requirement:  # this runs on a newer one
        print(f"{bound['name']}=={bound['version']}")
