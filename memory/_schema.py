"""The tables of a docendo database. All names start with `docendo_`, so a server can be shared.

Each row carries a digest of its own content. SQLite checks its write-ahead log, but not the main file:
a flipped bit there comes back as a silently wrong row. With the digest it comes back as an error.
"""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA_VERSION = 2

metadata = sa.MetaData()

meta = sa.Table(
    "docendo_meta",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

# The end of each hash chain. Without it, rows lost from the end of a chain would leave no trace.
heads = sa.Table(
    "docendo_heads",
    metadata,
    sa.Column("chain", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)

posts = sa.Table(
    "docendo_posts",
    metadata,
    sa.Column("board", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("item", sa.Text, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("parents", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("previous", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Index("docendo_posts_by_item", "board", "run", "item", "seq"),
)

trust = sa.Table(
    "docendo_trust",
    metadata,
    sa.Column("board", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("post", sa.Text, nullable=False, index=True),
    sa.Column("level", sa.Text, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("previous", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)

journal = sa.Table(
    "docendo_journal",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)

# Prompts live apart from traces: the samples of one request share theirs.
prompts = sa.Table(
    "docendo_prompts",
    metadata,
    sa.Column("hash", sa.Text, primary_key=True),
    sa.Column("messages", sa.Text, nullable=False),
)

traces = sa.Table(
    "docendo_traces",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("item", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("split", sa.Text, nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Index("docendo_traces_by_item", "run", "item"),
)

rewards = sa.Table(
    "docendo_rewards",
    metadata,
    sa.Column("trace", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)

runs = sa.Table(
    "docendo_runs",
    metadata,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("updated", sa.Double, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)

items = sa.Table(
    "docendo_items",
    metadata,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("item", sa.Text, primary_key=True),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)

# Which process works on a run now. A row that its process left behind is told by the process being gone.
leases = sa.Table(
    "docendo_leases",
    metadata,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("taken", sa.Double, nullable=False),
    sa.Column("beat", sa.Double, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)
