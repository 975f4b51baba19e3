"""A read that is kept: the same after a crash, and in the provenance of what was made of it."""

from __future__ import annotations

from docendo.errors import DataError
from docendo.memory.board._posts import Post
from docendo.memory.memories._budget import Budget, Entry
from docendo.memory.memories._memory import BoardMemory
from docendo.records import JSON, Author


def recall(
    memory: BoardMemory,
    query: str,
    *,
    budget: Budget,
    author: Author,
    key: str,
    run: str = "",
    item: str = "",
) -> list[Entry]:
    """Reads a memory once per key and posts what was read.

    Other agents may write between a node's first run and its second one after a crash. With `read` the second
    prompt would then differ from the first. Here the second run gets the entries of the first, without
    those that were evicted or quarantined since. The post (an `event` in the memory's channel) has the
    entries as its parents: give it as a parent to what you make of them, and taint can be followed.

    Args:
        memory: What is read.
        query: What is wanted.
        budget: What the texts may take.
        author: Who reads.
        key: Idempotency key within the memory's channel, for example `run/item/node/step`.
        run: The reader's run; what is read is not limited to it.
        item: The reader's item.

    Example:
        >>> from docendo.memory import Blackboard, WindowMemory
        >>> board = Blackboard.open(":memory:")
        >>> me = Author(agent="student", role="student")
        >>> memory = WindowMemory(board)
        >>> first = memory.write("carry the one", author=me, key="1")
        >>> def read():
        ...     entries = recall(memory, "", budget=Budget(entries=3), author=me, key="run/item/solve/0")
        ...     return [entry.text for entry in entries]
        >>> read()
        ['carry the one']
        >>> other = memory.write("borrow from the left", author=me, key="2")
        >>> read()
        ['carry the one']
        >>> board.close()
    """
    board = memory.board
    if not key:
        raise DataError("the key of a recall is empty", expected="for example run/item/node/step")
    event = board.find(f"{memory.recalls}{key}") or _post(
        memory, memory.read(query, budget), query=query, author=author, key=key, run=run, item=item
    )
    kept = (
        Entry(post=board.get(one["post"]), text=one["text"], score=one["score"], parts=dict(one["parts"]))
        for one in event.body["entries"]
    )
    return list(memory.living(kept))


def _post(
    memory: BoardMemory, found: list[Entry], *, query: str, author: Author, key: str, run: str, item: str
) -> Post:
    read: list[JSON] = [
        {"post": one.post.id, "text": one.text, "score": one.score, "parts": dict(one.parts)} for one in found
    ]
    return memory.board.post(
        "event",
        {"query": query, "entries": read},
        author=author,
        key=f"{memory.recalls}{key}",
        run=run,
        item=item,
        parents=tuple(one.post.id for one in found),
        channel=memory.channel,
    )
