import shutil
from collections import namedtuple

import pytest

from sam_bloodcell.reproduce import plan
from sam_bloodcell.reproduce.plan import Cost, check_space, stored_bytes

GB = 10**9


def test_token_maps_of_both_datasets_take_what_was_measured():
    assert stored_bytes(34_000, 768, 224) == pytest.approx(12e9, rel=0.05)  # 10 GB of them are tokens


@pytest.fixture
def free(monkeypatch):
    """Let 5 GB of disk and of memory be free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(5 * GB))
    monkeypatch.setattr(plan.psutil, "virtual_memory", lambda: namedtuple("Memory", "available")(5 * GB))


def test_a_disk_that_is_too_small_is_named_before_the_start(tmp_path, free):
    check_space(4 * GB, tmp_path / "not there yet")
    with pytest.raises(OSError, match=r"Got 5.0 GB of free space but expected 12.0 GB for token maps. Fix: ") as raised:
        check_space(12 * GB, tmp_path / "cache")
    assert raised.value.filename == str(tmp_path / "cache")


def test_what_an_earlier_run_stored_needs_no_space_again(tmp_path, free):
    with (tmp_path / "cells.sqlite").open("wb") as file:
        file.truncate(8 * GB)  # a sparse file
    check_space(12 * GB, tmp_path)


def test_token_maps_that_do_not_fit_into_the_memory_are_refused(free):
    check_space(4 * GB, None)
    with pytest.raises(ValueError, match=r"Got no cache_dir, and 5.0 GB of free memory for 12.0 GB of token maps"):
        check_space(12 * GB, None)


def test_times_are_told_in_a_unit_that_fits_and_the_adapter_only_if_it_is_trained():
    told = str(Cost(adapter=0, embedding=90, autoencoder=3 * 86400, disk=12 * GB))
    assert "up to 12.0 GB for token maps and crops" in told
    assert "embedding less than 2 minutes, autoencoder about 3 days" in told
    assert "adapter" not in told
    assert "adapter about 5 hours" in str(Cost(adapter=18000, embedding=600, autoencoder=10, disk=0))
    assert "up to 6 MB" in str(Cost(adapter=0, embedding=1, autoencoder=1, disk=6_400_000))
