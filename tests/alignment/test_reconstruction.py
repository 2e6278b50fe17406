"""Batches of a training: every domain counts the same in each."""

import numpy as np

from sam_bloodcell.alignment.reconstruction import balanced_batches


def test_batches_hold_every_laboratory_alike():
    codes = np.repeat([0, 1, 2], [500, 30, 5])
    batches = list(balanced_batches(codes, 60, 8, np.random.default_rng(0)))
    assert len(batches) == 8
    assert all(np.bincount(codes[batch]).tolist() == [20, 20, 20] for batch in batches)
    seen = np.concatenate(batches)
    assert len(np.unique(seen[codes[seen] == 0])) == 160  # none twice before all were there
    assert set(seen) >= set(range(500, 535))


def test_one_laboratory_or_none_is_gone_through_once():
    batches = list(balanced_batches(np.full(40, -1), 10, 4, np.random.default_rng(0)))
    assert sorted(np.concatenate(batches)) == list(range(40))
