"""The stores of keys and values, and attention over them, by themselves."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from docendo.agents import _slots
from docendo.agents._attention import attending, slot_attention
from docendo.agents._prefixes import MIN_PREFIX, PrefixTree, shared_length
from docendo.agents._slots import KVShape, Layout, Shared, SlotCache, Stored, Stretch

SHAPE = KVShape(layers=1, heads=1, key_size=1, value_size=1)


def write(cache: SlotCache, layout: Layout, values: list[float]) -> None:
    """One pass whose keys are `values` and whose values are their opposites."""
    cache.aim(layout)
    states = torch.tensor(values).reshape(1, 1, -1, 1)
    cache.update(states, -states, 0)


def filled(slots: int = 3, length: int = 5, limit_bytes: int = 1 << 62) -> SlotCache:
    cache = SlotCache(SHAPE, limit_bytes=limit_bytes)
    cache.reserve(slots, length)
    stretches = [Stretch(slot, 0, slot * length, length) for slot in range(slots)]
    write(cache, Layout(starts=[], stretches=stretches), [float(n) for n in range(slots * length)])
    return cache


def keys(cache: SlotCache, slot: int, length: int = 5) -> list[float]:
    found = cache.read(slot, 0, length)
    assert torch.equal(found.keys, -found.values)
    return found.keys.flatten().tolist()


def test_steps_and_stretches_land_in_their_slots() -> None:
    cache = filled()
    cache.reserve(3, 7)
    write(cache, Layout(starts=[5, 2], stretches=[Stretch(2, 4, 2, 3)]), [90.0, 91.0, 92.0, 93.0, 94.0])
    assert keys(cache, 0, 6) == [0, 1, 2, 3, 4, 90]
    assert keys(cache, 1) == [5, 6, 91, 8, 9]
    assert keys(cache, 2, 7) == [10, 11, 12, 13, 92, 93, 94]
    write(cache, Layout(starts=[0], stretches=[], first=1), [77.0])
    assert keys(cache, 1) == [77, 6, 91, 8, 9]


def test_growing_keeps_contents_and_moving_copies() -> None:
    cache = filled()
    cache.reserve(40, 500)
    assert cache.slots >= 40
    assert cache.length >= 500
    assert [keys(cache, slot) for slot in range(3)] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9],
        [10, 11, 12, 13, 14],
    ]
    cache.swap(0, 2, 5)
    assert (keys(cache, 0)[0], keys(cache, 2)[0]) == (10, 0)
    cache.copy(1, 0, 3)
    cache.copy(1, 30, 3)
    assert keys(cache, 0) == [5, 6, 7, 13, 14]
    assert keys(cache, 30) == [5, 6, 7, 0, 0]
    stored = cache.read(2, 1, 4)
    cache.clear(1)
    assert keys(cache, 1) == [0] * 5
    cache.write(1, 2, stored.part(1, 3))
    assert keys(cache, 1) == [0, 0, 2, 3, 0]
    cache.free()
    assert cache.nbytes == 0


def test_spare_room_stays_within_the_limit() -> None:
    limit = 20 * 128 * 8
    cache = filled(limit_bytes=limit)
    assert cache.bytes_per_token == 8
    for slots, length in ((3, 6), (16, 60), (17, 61), (20, 90), (20, 100)):
        cache.reserve(slots, length)
        assert cache.slots >= slots
        assert cache.length >= length
        assert cache.nbytes <= limit
    cache.reserve(20, 140)  # asked for more than the limit: that in whole blocks, and no more
    assert (cache.slots, cache.length) == (20, 160)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=40), st.integers(0, 2000))
def test_segments_cover_all_steps_and_read_little_in_vain(starts: list[int], most: int) -> None:
    found = Layout(starts=starts, stretches=[]).segments(most)
    assert [place for begin, end, _ in found for place in range(begin, end)] == list(range(len(starts)))
    for begin, end, span in found:
        lengths = [start + 1 for start in starts[begin:end]]
        assert span == max(lengths)
        assert len(lengths) * span - sum(lengths) <= most
    assert len(Layout(starts=starts, stretches=[]).segments(1 << 62)) == 1


# --- attention ------------------------------------------------------------------------------------


def expected(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None, cap: float
) -> torch.Tensor:
    """Plain causal attention of one whole row, (heads, tokens, size), in float64."""
    groups = query.shape[0] // key.shape[0]
    query, key, value = query.double(), key.double().repeat_interleave(groups, 0), value.double()
    scores = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5
    if cap:
        scores = torch.tanh(scores / cap) * cap
    here = torch.arange(query.shape[1])
    seen = here[None] <= here[:, None]
    if window:
        seen &= here[None] > here[:, None] - window
    return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value.repeat_interleave(groups, 0)


@pytest.mark.parametrize("window", [None, 1, 4, 300])
@pytest.mark.parametrize("cap", [0.0, 2.0])
@pytest.mark.parametrize(("heads", "kv"), [(4, 2), (3, 3), (6, 1)])
def test_packed_attention_is_that_of_each_row_alone(
    window: int | None, cap: float, heads: int, kv: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows cut into stretches and steps at random, interleaved in packed passes."""
    if heads == 4:  # every step of another length has a call of its own, and beginnings need no mask
        monkeypatch.setattr(_slots, "IDLE_READ_BYTES", 0)
        monkeypatch.setattr(_slots, "LONG_BEGINNING", 4)
    rng, generator = random.Random(heads + 1), torch.Generator().manual_seed(1)
    rows = [
        [torch.randn(n, length, 8, generator=generator) for n in (heads, kv, kv)]
        for length in (1, 40, 38, 40, 39, 600, 590, 595, 33)
    ]
    cache = SlotCache(KVShape(1, kv, 8, 8))
    done, outputs = [0] * len(rows), [[] for _ in rows]  # type: ignore[var-annotated]
    order = list(range(len(rows)))
    together = padded = 0
    while order:
        # Some neighbouring rows that have begun take one step each; others bring more, or nothing.
        low = rng.randrange(len(rows))
        high = low + rng.randrange(3)
        steps = [slot for slot in order if low <= slot < high]
        if steps != list(range(low, high)) or not all(done[slot] for slot in steps):
            steps = []
        layout = Layout(starts=[done[slot] for slot in steps], stretches=[], first=steps[0] if steps else 0)
        pieces = [(slot, done[slot], 1) for slot in steps]
        offset = len(steps)
        usual, begun = rng.choice([5, 300]), any(done)
        for slot in order:
            if slot not in steps and (not begun or rng.random() < 0.8):
                # At first neighbours of unequal widths; later whatever comes.
                width = rng.choice([1, usual, usual, usual - 1]) if begun else 5 - slot % 2
                width = min(width, rows[slot][0].shape[1] - done[slot])
                layout.stretches.append(Stretch(slot, done[slot], offset, width))
                pieces.append((slot, done[slot], width))
                offset += width
        if not pieces:
            continue
        cache.reserve(len(rows), max(start + width for _, start, width in pieces))
        cache.aim(layout)
        together += sum(len(group.stretches) > 1 for group in cache.groups(heads))
        padded += sum(group.spread is not None for group in cache.groups(heads))
        query, key, value = (
            torch.cat([rows[slot][part][:, start : start + width] for slot, start, width in pieces], 1)[None]
            for part in range(3)
        )
        cache.update(key, value, 0)
        attending(cache)
        found, _ = slot_attention(
            torch.nn.Module(), query, key, value, None, sliding_window=window, softcap=cap
        )
        attending(None)
        for (slot, _, width), output in zip(pieces, found[0].split([w for *_, w in pieces]), strict=True):
            outputs[slot].append(output)
            done[slot] += width
        order = [slot for slot in order if done[slot] < rows[slot][0].shape[1]]
    assert together
    assert padded
    for (query, key, value), output in zip(rows, outputs, strict=True):
        wanted = expected(query, key, value, window, cap).transpose(0, 1).float()
        torch.testing.assert_close(torch.cat(output), wanted, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("heads", "kv"), [(4, 2), (3, 3), (6, 1)])
@pytest.mark.parametrize("lengths", [(7,), (64, 1), (33, 96)])
def test_attention_over_shared_beginnings_is_that_of_whole_rows(
    heads: int, kv: int, lengths: tuple[int, ...]
) -> None:
    """Rows that share one of several beginnings, or none, in pieces and steps."""
    generator = torch.Generator().manual_seed(2)

    def states(length: int) -> list[torch.Tensor]:
        return [torch.randn(n, length, 8, generator=generator) for n in (heads, kv, kv)]

    beginnings = [states(length) for length in (0, *lengths)]
    stored = [Stored(*(part.transpose(0, 1)[None] for part in one[1:])) for one in beginnings]
    owners = [number % len(beginnings) for number in range(8)]
    tails = [states(length) for length in (5, 5, 6, 40, 3, 70, 1, 600)]
    cache = SlotCache(KVShape(1, kv, 8, 8))
    cache.reserve(len(tails), 600)
    done, outputs = [0] * len(tails), [[] for _ in tails]  # type: ignore[var-annotated]
    for steps, most in ((0, 2), (2, 3), (1, 200), (2, 40), (2, 1), (0, 600)):
        # The rows in front take a step each, if they have one left; all others bring a piece.
        rows = [row for row, tail in enumerate(tails) if done[row] < tail[0].shape[1]]
        stepping = [row for row in rows[:steps] if done[row]]
        stepping = stepping if stepping == list(range(len(stepping))) else []
        layout = Layout(starts=[done[row] for row in stepping], stretches=[])
        pieces, offset = [(row, 1) for row in stepping], len(stepping)
        for row in rows:
            if row not in stepping:
                width = min(most, tails[row][0].shape[1] - done[row])
                layout.stretches.append(Stretch(row, done[row], offset, width))
                pieces.append((row, width))
                offset += width
        places: dict[int, list[int]] = {}
        at = 0
        for row, width in pieces:
            places.setdefault(owners[row], []).extend(range(at, at + width))
            at += width
        layout.shared = [
            Shared(stored[owner], None if len(mine) == at else torch.tensor(mine))
            for owner, mine in places.items()
            if owner
        ]
        cache.aim(layout)
        query, key, value = (
            torch.cat([tails[row][part][:, done[row] : done[row] + width] for row, width in pieces], 1)[None]
            for part in range(3)
        )
        cache.update(key, value, 0)
        attending(cache)
        found, _ = slot_attention(torch.nn.Module(), query, key, value, None)
        attending(None)
        for (row, width), output in zip(pieces, found[0].split([w for _, w in pieces]), strict=True):
            outputs[row].append(output)
            done[row] += width
    for row, tail in enumerate(tails):
        whole = [torch.cat(pair, 1) for pair in zip(beginnings[owners[row]], tail, strict=True)]
        wanted = expected(*whole, None, 0.0)[:, -tail[0].shape[1] :].transpose(0, 1).float()
        torch.testing.assert_close(torch.cat(outputs[row]), wanted, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("settings", [{"sliding_window": 4}, {"softcap": 2.0}])
def test_layers_whose_attention_does_not_add_up_share_nothing(settings: dict[str, float]) -> None:
    cache = filled()
    states = torch.ones(1, 1, 1, 1)
    assert cache.sharing
    for shared in ([], [Shared(cache.read(0, 0, 2), None)]):
        cache.aim(Layout(starts=[2], stretches=[], shared=shared))
        attending(cache)
        if shared:
            with pytest.raises(NotImplementedError, match="shared beginning"):
                slot_attention(torch.nn.Module(), states, states, states, None, **settings)  # type: ignore[arg-type]
        else:
            slot_attention(torch.nn.Module(), states, states, states, None, **settings)  # type: ignore[arg-type]
            assert not cache.sharing
    attending(None)


def test_attention_outside_an_engine_or_with_sinks_is_refused() -> None:
    states = torch.zeros(1, 1, 1, 1)
    with pytest.raises(RuntimeError, match="inside an engine"):
        slot_attention(torch.nn.Module(), states, states, states, None)
    cache = filled()
    attending(cache)
    with pytest.raises(NotImplementedError, match="s_aux"):
        slot_attention(torch.nn.Module(), states, states, states, None, s_aux=torch.zeros(1))
    attending(None)
    assert scaled_dot_product_attention is not slot_attention


# --- prefixes -------------------------------------------------------------------------------------


def stored(tokens: tuple[int, ...]) -> Stored:
    values = torch.tensor(tokens, dtype=torch.float32)
    return Stored(values.reshape(1, -1, 1, 1), values.reshape(1, -1, 1, 1))


def put(tree: PrefixTree, adapter: str | None, tokens: tuple[int, ...]) -> None:
    tree.put(adapter, tokens, lambda start, stop: stored(tokens[start:stop]))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 400))
def test_matches_are_the_longest_stored_beginning(seed: int, capacity: int) -> None:
    """With prompts that share beginnings, two adapters and evictions."""
    draw, tree = random.Random(seed), PrefixTree(capacity)
    stem = tuple(draw.randrange(3) for _ in range(80))
    put_so_far: list[tuple[str | None, tuple[int, ...]]] = []
    evicted = False
    for _ in range(30):
        adapter = draw.choice([None, "a"])
        tokens = stem[: draw.randint(0, 80)] + tuple(draw.randrange(3) for _ in range(draw.randint(1, 9)))
        best = max((shared_length(old, tokens) for owner, old in put_so_far if owner == adapter), default=0)
        limit = draw.choice([len(tokens), len(tokens) - 1])
        match = tree.match(adapter, tokens, limit)
        if not evicted:
            assert match.length == (min(best, limit) if min(best, limit) >= MIN_PREFIX else 0)
        assert match.length <= min(best, limit)
        pieces = [int(token) for piece in match.pieces for token in piece.keys.flatten()]
        assert tuple(pieces) == tokens[: match.length]
        assert [int(t) for piece in match.pieces for t in piece.values.flatten()] == pieces
        before = tree.tokens
        put(tree, adapter, tokens)
        if MIN_PREFIX <= len(tokens) <= capacity:
            put_so_far.append((adapter, tokens))
            evicted |= before + len(tokens) > capacity
            assert tree.match(adapter, tokens, len(tokens)).length == len(tokens)
        assert tree.tokens == sum(len(node.tokens) for node in nodes(tree)) <= capacity


def nodes(tree: PrefixTree) -> list[object]:
    found, stack = [], list(tree._roots.values())
    while stack:
        node = stack.pop()
        found.append(node)
        stack.extend(node.children.values())
    return found  # type: ignore[return-value]


def test_the_least_recently_used_prefix_goes_first() -> None:
    tree = PrefixTree(100)
    a, b, c = ((n,) * 40 for n in (1, 2, 3))
    put(tree, None, a)
    put(tree, None, b)
    assert tree.match(None, a, 40).length == 40
    put(tree, None, c)
    assert (tree.match(None, a, 40).length, tree.match(None, b, 40).length) == (40, 0)


def test_shared_beginnings_are_kept_once_and_outlive_their_ends() -> None:
    tree = PrefixTree(150)
    stem = (1,) * 100
    put(tree, None, (*stem, *(2,) * 20))
    put(tree, None, (*stem, *(3,) * 20))
    assert tree.tokens == 140
    put(tree, None, (*stem, *(4,) * 20))
    assert tree.tokens == 140
    assert tree.match(None, (*stem, 2, 2), 102).length == 100
    assert tree.match(None, (*stem, 4, 4), 102).length == 102
