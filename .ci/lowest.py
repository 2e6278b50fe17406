"""Print the lowest version of each dependency that pyproject.toml promises to work, as pip constraints.

python .ci/lowest.py > lowest.txt
pip install -c constraints.txt -c lowest.txt -e ".[test]"

PyTorch stays at the version of constraints.txt, and what only tests, docs or developers use at its newest. Markers,
as in `; python_version < "3.12"`, are read for the Python that runs this.
"""

from pathlib import Path

import tomllib
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
TOOLS = {"test", "docs", "dev"}  # extras of who works on the project

texts = PROJECT["dependencies"] + [
    text for extra, needed in PROJECT["optional-dependencies"].items() if extra not in TOOLS for text in needed
]
for requirement in map(Requirement, texts):
    if requirement.name in {PROJECT["name"], "torch"} or (requirement.marker and not requirement.marker.evaluate()):
        continue
    lowest = [bound.version for bound in requirement.specifier if bound.operator == ">="]
    if not lowest:
        raise SystemExit(f"Got '{requirement}' but expected a lower bound, as in 'numpy>=1.26'.")
    print(f"{requirement.name}=={lowest[0]}")
