"""Lessons and strategies of a board as rows: what was taught in words, to be learnt by weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from docendo.distill.datasets._builder import Builder
from docendo.distill.datasets._candidates import Draft, name_of
from docendo.distill.datasets._messages import messages_of, said, texts
from docendo.errors import DataError
from docendo.memory import Blackboard, Post, TraceStore
from docendo.records import Item, Message

if TYPE_CHECKING:
    from datasets import Dataset

    from docendo.memory import Database

_SITUATION = "What helps in this situation?\n\n{}"
_QUESTION = "What helps with questions such as this one?\n\n{}"


def lessons_dataset(
    posts: Blackboard | Iterable[Post],
    *,
    exclude: Iterable[Item],
    items: Iterable[Item] = (),
    kinds: Sequence[str] = ("lesson", "strategy"),
    prompt: Callable[[Post], Sequence[Message] | None] | None = None,
    max_per_item: int | None = None,
    database: Database | None = None,
    quiet: bool = False,
) -> Dataset:
    """Builds rows from lessons and strategies that were promoted; no other post is learnt from.

    Args:
        posts: A board, or posts of it. On a board, turns and posts that a lesson follows from are checked as
            well.
        exclude: The test items, which must not appear in the result in any form.
        items: The training items. A lesson about an item needs it here.
        kinds: Kinds of posts.
        prompt: What the model is asked, or None to leave a post out. By default it is asked what helps in the
            scenario of a strategy, or with the question of the item that a lesson belongs to.
        max_per_item: Most lessons per item, or None for all; those without an item count as one item's.
        database: Where to record what the rows were made of, as for `sft_dataset`.
        quiet: Do not say how many posts were left out for what they are held to be.

    Returns:
        A `datasets.Dataset` with the columns `prompt`, `completion` (the text of the lesson), `item`,
        `traces` and `posts`, ordered by item as in `items`, then as on the board.

    Raises:
        LeakError: if a post or prompt belongs to an excluded item, by id or by question text, or follows from
            what was made on one.
        DataError: if nothing is left; the message counts why.

    Example:
        >>> from docendo.distill import lessons_dataset
        >>> from docendo.memory import Blackboard, StrategyLibrary
        >>> from docendo.records import Author
        >>> board = Blackboard.open(":memory:")
        >>> library = StrategyLibrary(board)
        >>> entry = library.add("a sum that needs a carry", "Write the carry above the next column.",
        ...                     author=Author(agent="teacher", role="teacher"), key="carry")
        >>> library.audit(entry.id, by=Author(agent="ann", role="person"), approved=True, reason="read it")
        >>> lessons_dataset(board, exclude=[])[0]["completion"][0]["content"]
        'Write the carry above the next column.'
        >>> board.close()
    """
    builder = Builder(
        "lessons",
        {"kinds": list(kinds), "prompt": None if prompt is None else name_of(prompt)},
        items=items,
        exclude=exclude,
        max_per_item=max_per_item,
        unit="posts",
        database=database,
        quiet=quiet,
    )
    drafts = []
    for post in _in_order(posts, kinds):
        builder.guard.check_id(post.item, f"post {post.id!r}")
        builder.guard.check_texts(texts(dict(post.body)), f"post {post.id!r}")
        reason, text = _against(post, kinds, builder), _text(post)
        if reason is None and builder.knows(post.id):
            reason = "given twice"
        if reason is None and isinstance(posts, Blackboard):
            _require_clean(post, posts, builder)
        asked = None
        if reason is None:
            asked = prompt(post) if prompt is not None else _asked(post, builder)
            reason = "without a text" if not text else "without a prompt" if not asked else None
        if reason is not None or not asked:
            builder.refuse(str(reason))
            continue
        builder.take(post.id)
        drafts.append(
            Draft(
                fields={"prompt": messages_of(asked), "completion": said(text)},
                item=post.item,
                sources=(post.id,),
                origin={"traces": list(post.traces), "posts": [post.id]},
            )
        )
    return builder.dataset(
        [[draft] for draft in drafts],
        unused="not used",
        expected=f"a promoted post of kind {' or '.join(kinds)} that has a text and a prompt",
        remedy="promote lessons (Blackboard.trust), or give prompt=",
    )


def _require_clean(post: Post, board: Blackboard, builder: Builder) -> None:
    """Refuses a lesson that was drawn from a test item, even if it names none and repeats no question."""
    turns = TraceStore(board.database)
    for one in (post, *board.ancestors(post.id)):
        items = one.item, *(turns.get(name).item for name in one.traces)
        for item in items:
            builder.guard.check_id(item, f"post {post.id!r}, or what it follows from,")


def _in_order(posts: Blackboard | Iterable[Post], kinds: Sequence[str]) -> list[Post]:
    if isinstance(posts, Blackboard):
        posts = [post for kind in dict.fromkeys(kinds) for post in posts.posts(kind=kind)]
    given = list(posts)
    for post in given:
        if not isinstance(post, Post):
            raise DataError(f"a post is {post!r}"[:200], expected="a docendo.memory.Post")
    return sorted(given, key=lambda post: (post.board, post.seq))


def _against(post: Post, kinds: Sequence[str], builder: Builder) -> str | None:
    if post.kind not in kinds:
        return "of other kinds"
    if post.item and post.item not in builder.guard.items:
        return "of other items"
    if post.trust != "verified":
        return "quarantined" if post.trust == "quarantined" else "not promoted"
    return None


def _text(post: Post) -> str:
    text: Any = post.body.get("text")
    return text.strip() if isinstance(text, str) else ""


def _asked(post: Post, builder: Builder) -> list[Message] | None:
    scenario = post.body.get("scenario")
    if isinstance(scenario, str) and scenario.strip():
        return [{"role": "user", "content": _SITUATION.format(scenario.strip())}]
    if post.item:
        question = builder.guard.items[post.item].public.question
        return [{"role": "user", "content": _QUESTION.format(question)}]
    return None
