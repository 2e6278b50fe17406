"""The README.md that goes with saved weights: what they are, where they come from, how to load them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_text

_REPO = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_NOTICE = "**For research only, not for diagnosis.**"


def write_model_card(
    folder: Path,
    *,
    title: str,
    summary: str,
    code: str,
    base: str | None = None,
    base_revision: str | None = None,
    metrics: Mapping[str, float] | None = None,
    data: str | None = None,
    licence: str | None = None,
    tags: tuple[str, ...] = (),
) -> Path:
    """Write a model card.

    Parameters
    ----------
    folder : Path
    title, summary : str
        Heading and first paragraph.
    code : str
        Python that loads it; ``{source}`` stands for the folder or repo.
    base, base_revision : str, optional
        Hub repo and commit of the base weights.
    metrics : mapping of str to float, optional
    data : str, optional
        What it was trained on.
    licence : str, optional
        SPDX identifier, in lower case.
    tags : tuple of str
        Beside those that every card has.
    """
    from huggingface_hub import ModelCardData

    if metrics is not None and not isinstance(metrics, Mapping):
        raise TypeError(f"Got metrics={metrics!r} but expected numbers by name. Fix: {{'Dice': 0.95}}.")

    header = ModelCardData(
        license=licence,
        library_name="sam-bloodcell",
        base_model=base if base and _REPO.fullmatch(base) else None,
        tags=["blood-cells", "cytology", "scikit-learn", *tags],
    )
    origin = f"{base} at {base_revision}" if base_revision else base
    rows = {"Base weights": origin, "Trained on": data, "Licence": licence}
    about = "\n".join(f"- {name}: {value or 'not stated'}" for name, value in rows.items())
    text = f"""---
{header.to_yaml()}
---

# {title}

{summary}

{_NOTICE}

{about}

## Metrics

{_table(metrics)}

## How to load it

```python
{code}
```
"""
    path = folder / "README.md"
    write_text(path, text)
    return path


def _table(metrics: Mapping[str, Any] | None) -> str:
    if not metrics:
        return "None were stated."
    rows = "\n".join(f"| {name} | {float(value):.4g} |" for name, value in metrics.items())
    return f"| metric | value |\n|---|---|\n{rows}"
