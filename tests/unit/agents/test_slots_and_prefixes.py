"""The two stores of keys and values, by themselves."""

from __future__ import annotations

import random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from docendo.agents._prefixes import MIN_PREFIX, PrefixStore, shared_length
from docendo.agents._slots import SlotCache


def filled(rows: int = 3, length: int = 5, **options: int) -> SlotCache:
    cache = SlotCache(**options)  # type: ignore[arg-type]
    cache.reserve(rows, length)
    states = torch.arange(rows * length, dtype=torch.float32).reshape(rows, 1, length, 1)
    cache.aim(0, [0] * rows, length)
    cache.update(states, -states, 0)
    return cache


def test_ragged_writes_land_behind_each_row() -> None:
    cache = filled()
    cache.reserve(3, 7)
    span = cache.aim(0, [5, 2, 0], 1)
    keys, values = cache.update(torch.full((3, 1, 1, 1), 99.0), torch.full((3, 1, 1, 1), -99.0), 0)
    assert span == keys.shape[2] == 6
    assert keys[0, 0, :, 0].tolist() == [0, 1, 2, 3, 4, 99]
    assert keys[1, 0, :3, 0].tolist() == [5, 6, 99]
    assert keys[2, 0, :2, 0].tolist() == [99, 11]
    assert torch.equal(values, -keys)


def test_growing_keeps_contents_and_moving_copies() -> None:
    cache = filled()
    before = [cache.read(row, 5) for row in range(3)]
    cache.reserve(40, 500)
    assert cache.rows >= 40
    assert cache.length >= 500
    for row in range(3):
        assert all(torch.equal(a, b) for a, b in zip(cache.read(row, 5), before[row], strict=True))
    cache.move([2, 0], [0, 2], 5)  # at once, as a swap
    assert torch.equal(cache.read(0, 5)[0], before[2][0])
    assert torch.equal(cache.read(2, 5)[0], before[0][0])
    cache.clear(1)
    assert not cache.read(1, 5)[0].any()
    cache.write(1, before[1], 3)
    assert cache.read(1, 5)[0].flatten().tolist() == [5, 6, 7, 0, 0]


def test_spare_room_stays_within_the_limit() -> None:
    limit = 20 * 100 * 8
    cache = filled(limit_bytes=limit)
    assert cache.bytes_per_token == 8
    for rows, length in ((3, 6), (16, 60), (17, 61), (20, 90), (20, 100)):
        cache.reserve(rows, length)
        assert cache.rows >= rows
        assert cache.length >= length
        assert cache.rows * cache.length * 8 <= limit
    cache.reserve(20, 120)  # asked for more than the limit: exactly that, and no more
    assert (cache.rows, cache.length) == (20, 120)


def stored(tokens: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.tensor(tokens)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 400))
def test_matches_are_the_longest_stored_beginning(seed: int, capacity: int) -> None:
    """Against a plain search, with prompts that share beginnings, two adapters and evictions."""
    draw, store = random.Random(seed), PrefixStore(capacity)
    stem = tuple(draw.randrange(3) for _ in range(80))
    for _ in range(30):
        adapter = draw.choice([None, "a"])
        tokens = stem[: draw.randint(0, 80)] + tuple(draw.randrange(3) for _ in range(draw.randint(1, 9)))
        best = max(
            (shared_length(key, tokens) for (owner, key) in store._entries if owner == adapter), default=0
        )
        match = store.match(adapter, tokens)
        assert match.length == (best if best >= MIN_PREFIX else 0)
        if match.stored is not None:
            assert tuple(match.stored[0][: match.length].tolist()) == tokens[: match.length]
        store.put(adapter, tokens, stored(tokens))
        assert store.tokens == sum(len(key) for _, key in store._entries) <= capacity
        assert sum(map(len, store._families.values())) == len(store._entries)


def test_the_least_recently_used_prefix_goes_first() -> None:
    store = PrefixStore(100)
    a, b, c = ((n,) * 40 for n in (1, 2, 3))
    store.put(None, a, stored(a))
    store.put(None, b, stored(b))
    assert store.match(None, a).length == 40
    store.put(None, c, stored(c))
    assert (store.match(None, a).length, store.match(None, b).length) == (40, 0)
