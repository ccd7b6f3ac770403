"""Seeds: stable, distinct, and in the documented range."""

import hashlib

import numpy as np
import pytest

from hetero_brain.training.rng import derive_seed, generator


def test_seed_is_the_documented_hash():
    digest = hashlib.blake2b(b"i4:1234s4:maski2:-7", digest_size=8).hexdigest()
    assert derive_seed(1234, "mask", -7) == int(digest, 16) // 2
    # Pinned: if this number changes, no earlier run can be reproduced.
    assert derive_seed(1234, "mask", -7) == 3788190660510579588


@pytest.mark.parametrize(
    "one, other",
    [
        (("ab", "c"), ("a", "bc")),
        ((1, 23), (12, 3)),
        ((1,), ("1",)),
        (("a", ""), ("a",)),
        (("as:b",), ("a", "b")),
        (("a", "b"), ("b", "a")),
        (("é",), ("e",)),
    ],
)
def test_other_keys_give_other_seeds(one, other):
    assert derive_seed(*one) != derive_seed(*other)


def test_any_kind_of_integer_is_the_same_key():
    assert derive_seed(np.int32(7), "x") == derive_seed(np.uint8(7), "x")
    assert derive_seed(np.int64(7), "x") == derive_seed(7, "x")


def test_seeds_fill_63_bits():
    seeds = [derive_seed(0, i) for i in range(1000)]
    assert len(set(seeds)) == 1000
    assert 0.99 * 2**63 < max(seeds) < 2**63
    assert 0 <= min(seeds) < 0.01 * 2**63


@pytest.mark.parametrize("key", [1.0, None, b"a", ("a",)])
def test_other_types_are_refused(key):
    with pytest.raises(TypeError, match="int or a str"):
        derive_seed(0, key)


def test_generators_are_repeatable_and_apart():
    draws = generator(1, "mask").random(1000)
    assert np.array_equal(draws, generator(1, "mask").random(1000))
    other = generator(2, "mask").random(1000)
    assert abs(np.corrcoef(draws, other)[0, 1]) < 0.1
