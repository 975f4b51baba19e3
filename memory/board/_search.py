"""Full-text search over posts: an index of terms in the database, ranked here.

Both databases index the same terms, made by `terms`, and are asked for one thing only: the newest posts
with a term. From these the best are chosen by BM25. So a search reads a bounded number of posts however
large the board is, and finds the same on SQLite and PostgreSQL.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from docendo.errors import DataError, IntegrityError
from docendo.memory.storage import _schema

#: Parameters of BM25 (Robertson and Zaragoza, 2009), with the usual values, also Lucene's.
K1, B = 1.2, 0.75
#: Posts looked at per term, the newest ones, and terms looked at per query.
POSTINGS, MOST_TERMS = 256, 32
#: Longer words are cut, and more different words of one post are not indexed (1 MiB per post in PostgreSQL).
_WORD_LENGTH, _WORDS_PER_POST = 64, 10_000
#: Where the last indexed post is noted.
_MARK = "search"
_WORD = re.compile(r"[^\W_]+")
_INSERT = {
    "sqlite": sa.text("INSERT INTO docendo_search(rowid, terms) VALUES (:number, :terms)"),
    "postgresql": sa.text(
        "INSERT INTO docendo_search(number, terms) "
        "VALUES (:number, array_to_tsvector(string_to_array(:terms, ' ')))"
    ),
}
_NEWEST = {
    "sqlite": sa.text(
        "SELECT rowid FROM docendo_search WHERE docendo_search MATCH :query ORDER BY rowid DESC LIMIT :most"
    ),
    "postgresql": sa.text(
        "SELECT number FROM docendo_search WHERE terms @@ CAST(:query AS tsquery) "
        "ORDER BY number DESC LIMIT :most"
    ),
}


def words(text: str) -> list[str]:
    """Splits text into words as the index sees them: letters and digits, whatever their case and form.

    Example:
        >>> words("Newton's 2nd law, \ufb01rst_draft")
        ['newton', 's', '2nd', 'law', 'first', 'draft']
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return [word[:_WORD_LENGTH] for word in _WORD.findall(folded)]


def candidates(limit: int, *, chosen: bool) -> int:
    """How many posts are compared for so many hits: of the heaviest words the newest.

    A post that is compared costs some 0.02 ms. More if hits are chosen by what the index does not know, such
    as trust.
    """
    return 4 * limit + 50 if chosen else 2 * limit + 30


def text_of(body: Any) -> str:
    """All text of a post's body, in the order of its fields."""
    return "\n".join(_texts(body))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name in sorted(value):
            yield from _texts(value[name])
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _texts(entry)


def scope(**names: str) -> list[str]:
    """Terms for where a post stands (board, channel, ...); no word of a text can be one of them."""
    return [f"{name[0]}{value.encode('utf-8', 'surrogatepass').hex()}" for name, value in names.items()]


def terms(body: Any, places: Iterable[str]) -> list[str]:
    """The terms of a post, sorted: its words, marked by a letter of their own, and its places."""
    found = sorted(set(words(text_of(body))))[:_WORDS_PER_POST]
    return sorted({*(f"t{word}" for word in found), *places})


def add(connection: sa.Connection, number: int, post_terms: list[str]) -> None:
    """Indexes a post."""
    values = {"number": number, "terms": " ".join(post_terms)}
    connection.execute(_INSERT[connection.dialect.name], values)


class Candidates:
    """The posts that a query should be compared with: the newest ones with each of its words."""

    def __init__(
        self,
        connection: sa.Connection,
        query: str,
        places: Iterable[str],
        *,
        total: int,
        tail: Iterable[tuple[int, list[str]]] = (),
    ) -> None:
        """Asks the index.

        Args:
            connection: A reading transaction.
            query: The words looked for.
            places: Only posts with all these places (`scope`).
            total: How many posts there are, for the weights of words.
            tail: Posts that are not indexed yet, and their terms.

        Raises:
            DataError: if the query has no word.
        """
        self.words = list(dict.fromkeys(words(query)))[:MOST_TERMS]
        if not self.words:
            raise DataError(f"the query {query[:60]!r} has no words", expected="letters or digits")
        self.weights: dict[str, float] = {}
        self._found: dict[int, float] = {}
        where = list(places)
        late = [(number, set(found)) for number, found in tail]
        late = [(number, found) for number, found in reversed(late) if found.issuperset(where)]
        for word in self.words:
            numbers = [number for number, found in late if f"t{word}" in found]
            numbers = [*numbers, *_newest(connection, [f"t{word}", *where])][:POSTINGS]
            share = len(numbers)
            if share >= POSTINGS:
                # A common word: as frequent before as it is in the stretch just read.
                share = max(share, round(total * share / (numbers[0] - numbers[-1] + 1)))
            share = min(share, total)
            self.weights[word] = math.log(1 + (total - share + 0.5) / (share + 0.5))
            for number in numbers:
                self._found[number] = self._found.get(number, 0.0) + self.weights[word]

    def best(self, most: int) -> list[int]:
        """Numbers of the posts with the heaviest words, newest first among equals."""
        ranked = sorted(self._found.items(), key=lambda entry: (-entry[1], -entry[0]))
        return [number for number, _ in ranked[:most]]

    def score(self, texts: Mapping[int, str]) -> dict[int, float]:
        """BM25 of each text; lengths are compared with the mean length of these texts."""
        counts = {number: Counter(words(text)) for number, text in texts.items()}
        lengths = {number: count.total() for number, count in counts.items()}
        mean = sum(lengths.values()) / max(len(lengths), 1) or 1.0
        scores = {}
        for number, count in counts.items():
            norm = K1 * (1 - B + B * lengths[number] / mean)
            scores[number] = sum(
                weight * count[word] * (K1 + 1) / (count[word] + norm)
                for word, weight in self.weights.items()
            )
        return scores


def _newest(connection: sa.Connection, all_of: list[str]) -> list[int]:
    if connection.dialect.name == "sqlite":
        query = " AND ".join(f'"{term}"' for term in all_of)
    else:
        query = " & ".join(f"'{term}'" for term in all_of)
    found = connection.execute(_NEWEST[connection.dialect.name], {"query": query, "most": POSTINGS})
    return [int(number) for number in found.scalars()]


def catch_up(connection: sa.Connection, posts: Iterable[tuple[int, list[str]]]) -> int:
    """Indexes posts, those that follow on the mark, and returns how many. Needs a write transaction."""
    count = last = 0
    for last, post_terms in posts:
        add(connection, last, post_terms)
        count += 1
    if count:
        connection.execute(_schema.meta.delete().where(_schema.meta.c.name == _MARK))
        connection.execute(_schema.meta.insert(), {"name": _MARK, "value": str(last)})
    return count


def mark(connection: sa.Connection) -> int:
    """The number of the last post that is indexed, 0 if none is.

    Raises:
        IntegrityError: if it is damaged.
    """
    value = connection.scalar(sa.select(_schema.meta.c.value).where(_schema.meta.c.name == _MARK))
    if value is not None and not str(value).isdecimal():
        raise IntegrityError(f"the mark of the search index is {value!r}; run `docendo board reindex`")
    return int(value or 0)


class Seal:
    """A sum over all (post, term) pairs: equal for the posts and their index, or the index is damaged."""

    def __init__(self) -> None:
        """Starts at zero."""
        self.value = 0

    def add(self, number: int, term: str) -> None:
        """Adds a pair; the order does not matter."""
        pair = hashlib.blake2b(f"{number} {term}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
        self.value = (self.value + int.from_bytes(pair, "big")) % (1 << 128)


def indexed(connection: sa.Connection) -> Iterator[tuple[int, str]]:
    """All (post, term) pairs of the index."""
    if connection.dialect.name == "postgresql":
        rows = connection.execute(
            sa.text("SELECT number, unnest(tsvector_to_array(terms)) FROM docendo_search")
        )
    else:
        connection.exec_driver_sql(
            "CREATE VIRTUAL TABLE IF NOT EXISTS temp.docendo_terms "
            "USING fts5vocab(main, docendo_search, instance)"
        )
        rows = connection.exec_driver_sql("SELECT doc, term FROM temp.docendo_terms")
    for number, term in rows:
        yield int(number), str(term)


def clear(connection: sa.Connection) -> None:
    """Empties the index, before it is made again."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("DELETE FROM docendo_search")
    else:
        connection.exec_driver_sql("INSERT INTO docendo_search(docendo_search) VALUES ('delete-all')")
    connection.execute(_schema.meta.delete().where(_schema.meta.c.name == _MARK))
