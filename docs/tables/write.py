"""Write the tables of results.md that have a results file, between their markers.

    python docs/tables/write.py

The numbers come from the CSV beside this file, which the benchmark of the same name wrote; a test fails where page and
file differ.
"""

import re
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
PAGE = HERE.parent / "results.md"
LABORATORIES = ("tecom", "acevedo", "cellavision")
# arXiv 2412.02976, in the order of LABORATORIES.
SADA = ("84.3 / 62.6", "79.9 / 81.6", "")


def leave_one_laboratory_out() -> str:
    """F1 micro (the accuracy) and macro in percent, with spread over seeds and bootstrap interval."""
    table = pd.read_csv(HERE / "leave_one_laboratory_out.csv")
    lines = [f"| features | classifier | {' | '.join(LABORATORIES)} |", "|---" * (2 + len(LABORATORIES)) + "|"]
    for (features, classifier), rows in table.groupby(["features", "classifier"], sort=False):
        by_lab = rows.set_index("test_domain")
        lines.append(f"| {features} | {classifier} | {' | '.join(_cell(by_lab.loc[lab]) for lab in LABORATORIES)} |")
    return "\n".join([*lines, f"| SADA, as published | | {' | '.join(SADA)} |".replace("|  |", "| |")])


def _cell(row: pd.Series) -> str:
    micro, macro, spread = 100 * row["accuracy_mean"], 100 * row["macro_f1_mean"], 100 * row["macro_f1_std"]
    return f"{micro:.1f} / {macro:.1f} ± {spread:.1f} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"


def written(page: str) -> str:
    """Return the page with its tables as the files have them."""
    marked = r"(?<=<!-- leave_one_laboratory_out -->\n\n).*?(?=\n\n<!-- end -->)"
    return re.sub(marked, lambda _: leave_one_laboratory_out(), page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
