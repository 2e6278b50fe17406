"""The README.md that goes with saved weights: what they are, where they come from, how to load them."""

import re
from collections.abc import Mapping
from pathlib import Path

from ..files import write_text


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
    """Write a model card into a folder, and return its path.

    `code` is Python that loads the weights, `base` and `base_revision` are their base's repo and commit on the Hub,
    `data` is what they were trained on, `licence` an SPDX identifier; `tags` come beside those that every card has.
    """
    from huggingface_hub import ModelCard, ModelCardData

    if metrics is not None and not isinstance(metrics, Mapping):
        raise TypeError(f"Got metrics={metrics!r} but expected numbers by name. Fix: {{'Dice': 0.95}}.")
    header = ModelCardData(
        license=licence,
        library_name="sam-bloodcell",
        base_model=base if base and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base) else None,
        tags=["blood-cells", "cytology", "scikit-learn", *tags],
    )
    card = ModelCard.from_template(
        header,
        template_path=str(Path(__file__).with_name("model_card.md")),
        title=title,
        summary=summary,
        code=code,
        base=base,
        base_revision=base_revision,
        metrics={name: f"{float(value):.4g}" for name, value in (metrics or {}).items()},
        data=data,
        licence=licence,
    )
    path = folder / "README.md"
    write_text(path, f"{card}\n")
    return path
