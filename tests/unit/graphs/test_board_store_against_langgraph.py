"""The same operations on `BoardStore` and on LangGraph's `InMemoryStore` have the same answers.

Where the two differ on purpose the comparison says so: the order of items (newest first here, as in
LangGraph's database stores), `created_at` of an item that is put again, and namespaces that `InMemoryStore`
lists although they hold nothing (it remembers every namespace that was ever read or emptied).
"""

import itertools

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from langgraph.store.base import GetOp, ListNamespacesOp, MatchCondition, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from docendo.graphs import BoardStore
from docendo.hashing import canonical_json
from docendo.memory import Blackboard

LABELS = st.sampled_from(["a", "b", "ab", "A", "a/b", "%", "_", "é"])
NAMESPACES = st.lists(LABELS, min_size=1, max_size=3).map(tuple)
PREFIXES = st.lists(LABELS, max_size=2).map(tuple)
PATHS = st.lists(LABELS | st.just("*"), min_size=1, max_size=3).map(tuple)
KEYS = st.sampled_from(["", "k", "K", "k.", "k/1", "%", "日本"])
LEAVES = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["red", "Red", "r%d", '"', "2", "\n"])
)
FIELDS = st.sampled_from(["color", "n", "deep", "odd name", 'q"'])
VALUES = st.dictionaries(
    FIELDS, LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(FIELDS, LEAVES, max_size=2), max_size=3
)
EQUAL = st.dictionaries(st.sampled_from(["$eq", "$ne"]), LEAVES, min_size=1)
ORDERED = st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), st.integers(-3, 3), min_size=1)
CONDITIONS = st.lists(st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), PATHS), max_size=2)
FILTERS = st.none() | st.dictionaries(FIELDS, LEAVES | EQUAL | st.lists(LEAVES, max_size=2), max_size=2)
INDEX = st.none() | st.just(False) | st.just(["color"])
MOST = 10_000


def vector(text):
    """Small whole numbers, which have no rounding; the last one keeps it from being zero."""
    return [float(text.count(letter)) for letter in "red20"] + [1.0]


class Same(RuleBasedStateMachine):
    """Both stores, side by side; a batch now and then."""

    database = None
    index = None
    boards = itertools.count()

    @initialize()
    def open(self):
        board = Blackboard(self.database, name=f"b{next(self.boards)}")
        self.ours, self.theirs = BoardStore(board, index=self.index), InMemoryStore(index=self.index)
        self.written = 0

    def both(self, *ops):
        ours, theirs = self.ours.batch(ops), self.theirs.batch(ops)
        assert len(ours) == len(theirs)
        for op, mine, other in zip(ops, ours, theirs, strict=True):
            self.compare(op, mine, other)

    def compare(self, op, ours, theirs):
        if isinstance(op, GetOp):
            assert content(ours) == content(theirs)
        elif isinstance(op, SearchOp):
            assert sorted(map(content, ours)) == sorted(map(content, theirs))
        else:
            assert ours == theirs

    @rule(namespace=NAMESPACES, key=KEYS, value=VALUES, index=INDEX)
    def put(self, namespace, key, value, index):
        # InMemoryStore keeps vectors of fields that a later put does not index.
        if self.index is not None:
            self.both(PutOp(namespace, key, None))
        # It embeds all texts of a batch once and then counts the fields: equal texts make it raise.
        if self.index is not None and index is None and value.get("color") == value.get("n"):
            index = False
        self.both(PutOp(namespace, key, value, index))

    @rule(namespace=NAMESPACES, key=KEYS)
    def delete(self, namespace, key):
        self.both(PutOp(namespace, key, None))

    @rule(namespace=NAMESPACES, key=KEYS)
    def get(self, namespace, key):
        self.both(GetOp(namespace, key))

    @rule(namespaces=st.lists(NAMESPACES, min_size=2, max_size=3), key=KEYS, value=VALUES)
    def batch(self, namespaces, key, value):
        first, *rest = namespaces
        puts = [PutOp(namespace, key, value, False) for namespace in rest]
        self.both(
            GetOp(first, key), *puts, PutOp(first, key, None), GetOp(rest[0], key), SearchOp((), limit=MOST)
        )

    @rule(prefix=PREFIXES, condition=FILTERS)
    def search(self, prefix, condition):
        self.both(SearchOp(prefix, condition, MOST))

    @rule(prefix=PREFIXES, limits=ORDERED)
    def search_ordered(self, prefix, limits):
        numbers = [item for item in self.ours.search(prefix, limit=MOST) if is_number(item.value.get("n"))]
        if len(numbers) == len(self.ours.search(prefix, limit=MOST)):  # others make InMemoryStore raise
            self.both(SearchOp(prefix, {"n": limits}, MOST))

    @rule(prefix=PREFIXES, condition=FILTERS, limit=st.integers(0, 4), offset=st.integers(0, 4))
    def pages(self, prefix, condition, limit, offset):
        """A page is a part of all, and has as many items as LangGraph's."""
        op = SearchOp(prefix, condition, limit, offset)
        (ours,), (theirs,) = self.ours.batch([op]), self.theirs.batch([op])
        everything = self.ours.search(prefix, filter=condition, limit=MOST)
        assert [content(item) for item in ours] == [content(item) for item in everything][
            offset : offset + limit
        ]
        assert len(ours) == len(theirs)
        written = [item.updated_at for item in everything]
        assert written == sorted(written, reverse=True)

    @rule(prefix=PREFIXES, condition=FILTERS, query=st.sampled_from(["red", "2", "0d", "xyz"]))
    def query(self, prefix, condition, query):
        op = SearchOp(prefix, condition, MOST, 0, query)
        (ours,), (theirs,) = self.ours.batch([op]), self.theirs.batch([op])
        assert sorted(map(content, ours)) == sorted(map(content, theirs))
        if self.index is None:
            return
        scores = [{(item.namespace, item.key): item.score for item in found} for found in (ours, theirs)]
        for place, score in scores[0].items():
            assert scores[1][place] == (None if score is None else pytest.approx(score, abs=1e-6))
        ranked = [item.score for item in ours]
        known = [score for score in ranked if score is not None]
        assert known == sorted(known, reverse=True)
        assert ranked == known + [None] * (len(ranked) - len(known))

    @rule(
        conditions=st.lists(
            st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), PATHS), max_size=2
        ),
        depth=st.none() | st.integers(1, 3),
        limit=st.integers(0, 5),
        offset=st.integers(0, 3),
    )
    def namespaces(self, conditions, depth, limit, offset):
        used = {item.namespace for item in self.theirs.search((), limit=MOST)}
        for namespace in list(self.theirs._data):
            if namespace not in used:
                del self.theirs._data[namespace]
        self.both(ListNamespacesOp(tuple(conditions), depth, limit, offset))


def content(item):
    return None if item is None else (item.namespace, item.key, canonical_json(item.value))


def is_number(value):
    return isinstance(value, int) and not isinstance(value, bool)


BY_VECTOR = {"dims": 6, "embed": lambda texts: list(map(vector, texts)), "fields": ["color", "n"]}


@pytest.mark.parametrize("index", [None, BY_VECTOR], ids=["plain", "vectors"])
def test_random_operations_have_the_same_answers(database_url, index):
    with Blackboard.open(database_url) as board:
        machine = type("Machine", (Same,), {"database": board.database, "index": index})
        checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
        chosen = settings(
            max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=checks
        )
        run_state_machine_as_test(machine, settings=chosen)
