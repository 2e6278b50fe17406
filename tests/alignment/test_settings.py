"""The settings of a fit, and what they ask of the embedder."""

import pytest

from sam_bloodcell.alignment.settings import parts_to_keep


@pytest.mark.parametrize(
    ("architecture", "preset", "parts"),
    [
        ("auto", None, ()),
        ("vector", "bc-sam", ()),
        ("auto", "dorl", ("tokens", "published_crops")),
        ("auto", "bc-sam", ("tokens", "published_crops")),
        ("conv", "bc-sam", ("tokens", "crops")),
        ("conv", None, ("tokens", "crops")),
        ("masked", None, ("tokens", "crops")),
    ],
)
def test_token_maps_are_kept_only_where_they_are_read(architecture, preset, parts):
    assert parts_to_keep(architecture, preset) == parts
