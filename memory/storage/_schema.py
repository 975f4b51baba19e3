"""The tables of a docendo database. All names start with `docendo_`, so a server can be shared.

Each row carries a digest of its own content. SQLite checks its write-ahead log, but not the main file:
a flipped bit there comes back as a silently wrong row. With the digest it comes back as an error.
"""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa

SCHEMA_VERSION = 3

metadata = sa.MetaData()

_HEX = re.compile("(?:[0-9a-f]{2})+")


class Id(sa.types.TypeDecorator[str]):
    """Ids, keys and hashes: text in Python, and in the database half as long where it is hexadecimal."""

    impl = sa.LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> bytes | None:
        """Text to bytes: a tag, then the digits packed, or the text as it is."""
        if value is None:
            return None
        if _HEX.fullmatch(value):
            return b"\x01" + bytes.fromhex(value)
        return b"\x00" + value.encode("utf-8", "surrogatepass")

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> str | None:
        """Bytes to text. What a damaged row holds becomes some text that no hash matches."""
        if value is None:
            return None
        raw = value if isinstance(value, bytes) else repr(value).encode()
        if raw[:1] == b"\x01":
            return raw[1:].hex()
        if raw[:1] == b"\x00":
            return raw[1:].decode("utf-8", "replace")
        return f"?{raw.hex()}"


# Compared byte by byte everywhere, not as the language of a server orders words.
_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# SQLite numbers rows by itself where the key is exactly INTEGER.
_Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

meta = sa.Table(
    "docendo_meta",
    metadata,
    sa.Column("name", _Text, primary_key=True),
    sa.Column("value", _Text, nullable=False),
    sqlite_with_rowid=False,
)

# The end of each hash chain. Without it, rows lost from the end of a chain would leave no trace.
heads = sa.Table(
    "docendo_heads",
    metadata,
    sa.Column("chain", _Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("hash", Id, nullable=False),
    sqlite_with_rowid=False,
)

# Long texts and lists, once each, by the digest of their content: see `_payloads`.
payloads = sa.Table(
    "docendo_payloads",
    metadata,
    sa.Column("hash", Id, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

# `number` is what the search index knows a post by; it is unique in the database, `seq` on a board.
posts = sa.Table(
    "docendo_posts",
    metadata,
    sa.Column("number", _Number, primary_key=True),
    sa.Column("board", _Text, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("id", Id, nullable=False, unique=True),
    sa.Column("key", _Text, nullable=False),
    sa.Column("channel", _Text, nullable=False),
    sa.Column("kind", _Text, nullable=False),
    sa.Column("run", _Text, nullable=False),
    sa.Column("item", _Text, nullable=False),
    sa.Column("author", _Text, nullable=False),
    sa.Column("process", _Text, nullable=False),
    sa.Column("parents", _Text, nullable=False),
    sa.Column("traces", _Text, nullable=False),
    sa.Column("body", _Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("previous", Id, nullable=False),
    sa.Column("hash", Id, nullable=False),
    sa.Index("docendo_posts_by_seq", "board", "seq", unique=True),
    sa.Index("docendo_posts_by_item", "board", "run", "item", "seq"),
    sa.Index(
        "docendo_posts_by_channel",
        *("board", "channel", "kind", "seq"),
        sqlite_where=sa.text("channel <> 'main'"),
        postgresql_where=sa.text("channel <> 'main'"),
    ),
)

# The parents of posts once more, to be followed from either side.
links = sa.Table(
    "docendo_links",
    metadata,
    sa.Column("parent", Id, primary_key=True),
    sa.Column("child", Id, primary_key=True),
    sa.Index("docendo_links_by_child", "child"),
    sqlite_with_rowid=False,
)

trust = sa.Table(
    "docendo_trust",
    metadata,
    sa.Column("board", _Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("id", Id, nullable=False, unique=True),
    sa.Column("post", Id, nullable=False, index=True),
    sa.Column("level", _Text, nullable=False),
    sa.Column("cause", Id, nullable=False),
    sa.Column("author", _Text, nullable=False),
    sa.Column("reason", _Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("previous", Id, nullable=False),
    sa.Column("hash", Id, nullable=False),
    # Whether there is any quarantine at all is asked with every post.
    sa.Index(
        "docendo_trust_quarantined",
        "post",
        sqlite_where=sa.text("level = 'quarantined'"),
        postgresql_where=sa.text("level = 'quarantined'"),
    ),
    sqlite_with_rowid=False,
)

channels = sa.Table(
    "docendo_channels",
    metadata,
    sa.Column("board", _Text, primary_key=True),
    sa.Column("name", _Text, primary_key=True),
    sa.Column("record", _Text, nullable=False),
    sa.Column("hash", Id, nullable=False),
    sqlite_with_rowid=False,
)

keys = sa.Table(
    "docendo_keys",
    metadata,
    sa.Column("board", _Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("id", Id, nullable=False, unique=True),
    sa.Column("key", _Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("value", _Text, nullable=False),
    sa.Column("author", _Text, nullable=False),
    sa.Column("process", _Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("previous", Id, nullable=False),
    sa.Column("hash", Id, nullable=False),
    sa.Index("docendo_keys_by_version", "board", "key", "version", unique=True),
    sqlite_with_rowid=False,
)

journal = sa.Table(
    "docendo_journal",
    metadata,
    sa.Column("key", Id, primary_key=True),
    sa.Column("value", _Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("hash", Id, nullable=False),
    sqlite_with_rowid=False,
)

# A prompt is its last message and the prompt before it: turns of one conversation share their beginning.
prompts = sa.Table(
    "docendo_prompts",
    metadata,
    sa.Column("hash", Id, primary_key=True),
    sa.Column("parent", Id, nullable=False),
    sa.Column("message", _Text, nullable=False),
    sqlite_with_rowid=False,
)

traces = sa.Table(
    "docendo_traces",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", Id, nullable=False, unique=True),
    sa.Column("run", _Text, nullable=False),
    sa.Column("item", _Text, nullable=False),
    sa.Column("role", _Text, nullable=False),
    sa.Column("split", _Text, nullable=False),
    sa.Column("prompt", Id, nullable=False),
    sa.Column("record", _Text, nullable=False),
    sa.Column("hash", Id, nullable=False),
    sa.Index("docendo_traces_by_item", "run", "item"),
)

rewards = sa.Table(
    "docendo_rewards",
    metadata,
    sa.Column("trace", Id, primary_key=True),
    sa.Column("name", _Text, primary_key=True),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("hash", Id, nullable=False),
    sqlite_with_rowid=False,
)

runs = sa.Table(
    "docendo_runs",
    metadata,
    sa.Column("run", _Text, primary_key=True),
    sa.Column("config", _Text, nullable=False),
    sa.Column("origin", _Text, nullable=False),
    sa.Column("status", _Text, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("updated", sa.Double, nullable=False),
    sa.Column("hash", _Text, nullable=False),
    sqlite_with_rowid=False,
)

items = sa.Table(
    "docendo_items",
    metadata,
    sa.Column("run", _Text, primary_key=True),
    sa.Column("item", _Text, primary_key=True),
    sa.Column("outcome", _Text, nullable=False),
    sa.Column("hash", _Text, nullable=False),
    sqlite_with_rowid=False,
)

# Which process works on a run now. A row that its process left behind is told by the process being gone.
leases = sa.Table(
    "docendo_leases",
    metadata,
    sa.Column("run", _Text, primary_key=True),
    sa.Column("token", _Text, nullable=False),
    sa.Column("holder", _Text, nullable=False),
    sa.Column("taken", sa.Double, nullable=False),
    sa.Column("beat", sa.Double, nullable=False),
    sa.Column("hash", _Text, nullable=False),
    sqlite_with_rowid=False,
)

# The newest version of each document (`_documents`), to be found by namespace; the versions are in `keys`.
# `expires` moves whenever a document is read, so the hash does not cover it. Paths are compared byte by byte
# on every server, so that a range of them is a namespace with all below it.
_Exact = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

documents = sa.Table(
    "docendo_documents",
    metadata,
    sa.Column("board", _Text, primary_key=True),
    sa.Column("path", _Exact, primary_key=True),
    sa.Column("key", _Exact, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("minutes", sa.Double),
    sa.Column("expires", sa.Double),
    sa.Column("words", _Text, nullable=False),
    sa.Column("hash", Id, nullable=False),
    sa.Index("docendo_documents_by_path", "board", "path", "seq", "expires"),
    sa.Index("docendo_documents_by_seq", "board", "seq", unique=True),
    sa.Index(
        "docendo_documents_by_expiry",
        *("board", "expires"),
        sqlite_where=sa.text("expires IS NOT NULL"),
        postgresql_where=sa.text("expires IS NOT NULL"),
    ),
)

# Embeddings of fields of documents, by the version that they belong to.
document_vectors = sa.Table(
    "docendo_document_vectors",
    metadata,
    sa.Column("board", _Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("field", _Text, primary_key=True),
    sa.Column("vector", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

# Full-text index over posts by their number: terms alone, made by `_search.terms`, so both databases find
# the same. SQLite's keeps no copy of the text and no positions (`detail=none`). `_search` fills it before it
# searches; how far it has come is in `meta`.
_ddl: Any = sa.DDL  # has no annotations
sa.event.listen(
    posts,
    "after_create",
    _ddl(
        "CREATE VIRTUAL TABLE IF NOT EXISTS docendo_search USING fts5("
        "terms, content='', columnsize=0, detail=none, tokenize='ascii')"
    ).execute_if(dialect="sqlite"),
)
for _statement in (
    "CREATE TABLE IF NOT EXISTS docendo_search (number BIGINT PRIMARY KEY, terms TSVECTOR NOT NULL)",
    "CREATE INDEX IF NOT EXISTS docendo_search_by_terms ON docendo_search USING gin (terms)",
):
    sa.event.listen(posts, "after_create", _ddl(_statement).execute_if(dialect="postgresql"))

# What follows from what beyond the parents of posts, to be found from both sides. It repeats what hashed
# records say: posts their traces, traces their parents and adapter, artifacts what they were made of.
descent = sa.Table(
    "docendo_descent",
    metadata,
    sa.Column("kind", _Text, primary_key=True),
    sa.Column("parent", Id, primary_key=True),
    sa.Column("child", Id, primary_key=True),
    sa.Index("docendo_descent_by_child", "kind", "child"),
    sqlite_with_rowid=False,
)

# Data sets and adapters made from traces. One chain for the whole database: `board` is empty.
artifacts = sa.Table(
    "docendo_artifacts",
    metadata,
    sa.Column("board", _Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("id", Id, nullable=False, unique=True),
    sa.Column("kind", _Text, nullable=False),
    sa.Column("artifact", Id, nullable=False, index=True),
    sa.Column("record", _Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("previous", Id, nullable=False),
    sa.Column("hash", Id, nullable=False),
    sqlite_with_rowid=False,
)

# Embeddings of posts, made once per embedder. They can be made anew from the posts, but not noticed to be
# wrong, hence the digest.
vectors = sa.Table(
    "docendo_vectors",
    metadata,
    sa.Column("post", Id, primary_key=True),
    sa.Column("embedder", Id, primary_key=True),
    sa.Column("vector", sa.LargeBinary, nullable=False),
    sa.Column("hash", Id, nullable=False),
    sqlite_with_rowid=False,
)
