"""The settings of a fit, and what they ask of the embedder."""

import pytest

from sam_bloodcell.alignment.settings import parts_to_keep, resolve_settings


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


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"preset": "bc-sam", "architecture": "vector"},
            r"Got embedding_weight=0.0 \(from preset='bc-sam'\), but architecture='vector' reconstructs only .* "
            "above 0. Fix: leave architecture or preset out, or embedding_weight=1.0.",
        ),
        (
            {"preset": "dorl", "architecture": "linear"},
            r"Got alignment='first' \(from preset='dorl'\) but expected None, because architecture='linear' .* "
            "Fix: leave architecture or preset out, or alignment=None.",
        ),
        (
            {"preset": "dorl", "architecture": "linear", "alignment": "mean"},
            "Got alignment='mean' but expected None, because architecture='linear'",
        ),
        ({"alignment": "mean"}, "Got alignment='mean' but .* Fix: architecture='vector', or alignment=None."),
        ({"embedding_weight": 0}, "Got embedding_weight=0, but .* Fix: architecture='conv', or embedding_weight=1.0."),
    ],
)
def test_an_architecture_that_does_not_fit_names_the_preset_only_where_the_value_is_its_own(parameters, message):
    with pytest.raises(ValueError, match=message):
        resolve_settings({"preset": None} | parameters)
    change = {"alignment": None} if "alignment" in message else {"embedding_weight": 1.0}
    resolve_settings({"preset": None} | parameters | change)
