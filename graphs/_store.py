"""LangGraph's long-term memory on the blackboard: a store that processes share and whose history is kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any, Literal

from langgraph.store.base import (
    NOT_PROVIDED,
    BaseStore,
    GetOp,
    IndexConfig,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    NotProvided,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    ensure_embeddings,
)

from docendo.errors import ConfigError
from docendo.graphs._store_batch import Place, PutIf, Work, check_labels, labels_of, texts_at, tokenized
from docendo.graphs._store_rules import accepts, holding, matches
from docendo.memory import Blackboard, Versioned
from docendo.memory.board._documents import Document, Documents
from docendo.memory.board._search import text_of
from docendo.records import Author

#: Who writes where the store is not told.
AUTHOR = Author(agent="store", role="store")


class BoardItem(Item):
    """An item that knows its version, for `BoardStore.put(..., expected=item.version)`."""

    __slots__ = ("author", "version")

    def __init__(self, document: Document) -> None:
        """Made by `BoardStore`."""
        super().__init__(**_fields(document))
        self.version, self.author = document.version, document.author


class BoardSearchItem(SearchItem):
    """An item that a search has found, with its version."""

    __slots__ = ("author", "version")

    def __init__(self, document: Document) -> None:
        """Made by `BoardStore`."""
        super().__init__(**_fields(document), score=document.score)
        self.version, self.author = document.version, document.author


class BoardStore(BaseStore):
    """LangGraph's `BaseStore` over a blackboard, on SQLite or PostgreSQL.

    It does what LangGraph's own stores do, and more: all processes that open the database share it, every
    write and delete is a version of a hash-chained key with its author, and `put` can compare and swap.

    Items come newest first. With an embedder in `index`, a query ranks by embeddings; without one it ranks
    by words (BM25). Items that are not indexed, or have none of the words, follow without a score, as in
    LangGraph's `InMemoryStore`. `created_at` is when the item was first put, and stays when it is put again.

    Values are JSON: what has no form there is a `DataError`. A batch is one transaction; its reads see what
    was there before its writes.

    Args:
        board: The blackboard.
        index: LangGraph's index configuration; without `embed` the `fields` are found by their words.
        ttl: LangGraph's configuration of expiry.
        author: Who writes.

    Example:
        >>> from docendo.memory import Blackboard
        >>> store = BoardStore(Blackboard.open(":memory:"))
        >>> store.put(("users", "ann"), "food", {"text": "Ann likes mangoes."})
        >>> item = store.get(("users", "ann"), "food")
        >>> store.put(("users", "ann"), "food", {"text": "Ann likes plums."}, expected=item.version)
        >>> store.put(("users", "ann"), "food", {"text": "None."}, expected=item.version)
        Traceback (most recent call last):
        docendo.errors.VersionConflict: key 'store/users.ann..food' has version 2, written by 'store'; ...
        >>> [found.value["text"] for found in store.search(("users",), query="who likes plums?")]
        ['Ann likes plums.']
    """

    supports_ttl = True

    def __init__(
        self,
        board: Blackboard,
        *,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        author: Author = AUTHOR,
    ) -> None:
        self.board, self.ttl_config, self.index_config = board, ttl, index
        self.documents = Documents(board, author=author)
        embed = (index or {}).get("embed")
        self.embeddings = ensure_embeddings(embed) if embed is not None else None
        self._dims = (index or {}).get("dims")
        self._paths = [tokenized(path) for path in (index or {}).get("fields") or ["$"]]
        self._sweeper: tuple[threading.Event, Future[None]] | None = None

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Runs operations in one transaction: reads first, then writes, the last one of each item."""
        work = self._plan(ops)
        if self.embeddings is not None and work.texts:
            work.embedded(self._checked(self.embeddings.embed_documents(list(work.texts))))
        if self.embeddings is not None:
            for query in work.queries:
                (work.queries[query],) = self._checked([self.embeddings.embed_query(query)])
        return self._run(work)

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Runs operations as `batch` does, without blocking the event loop."""
        work = self._plan(ops)
        if self.embeddings is not None and work.texts:
            work.embedded(self._checked(await self.embeddings.aembed_documents(list(work.texts))))
        if self.embeddings is not None:
            found = await asyncio.gather(*map(self.embeddings.aembed_query, work.queries))
            work.queries.update(zip(work.queries, self._checked(found), strict=True))
        return await asyncio.to_thread(self._run, work)

    def put(
        self,
        namespace: tuple[str, ...],
        key: str,
        value: Mapping[str, Any],
        index: Literal[False] | list[str] | None = None,
        *,
        ttl: float | NotProvided | None = NOT_PROVIDED,
        expected: int | None = None,
    ) -> None:
        """Stores an item.

        Args:
            namespace: Where.
            key: Its name there.
            value: Its content, JSON.
            index: The fields to find it by instead of the store's; False for none.
            ttl: Minutes until it expires, counted from when it was last read or written.
            expected: The version that must be there (`item.version`), 0 if there must be none.

        Raises:
            VersionConflict: if another version is there.
            InvalidNamespaceError: if the namespace is empty, or begins with `langgraph`, or a label is none.
        """
        self.batch([self._put_op(namespace, key, value, index, ttl, expected)])

    async def aput(
        self,
        namespace: tuple[str, ...],
        key: str,
        value: Mapping[str, Any],
        index: Literal[False] | list[str] | None = None,
        *,
        ttl: float | NotProvided | None = NOT_PROVIDED,
        expected: int | None = None,
    ) -> None:
        """Stores an item as `put` does, without blocking the event loop."""
        await self.abatch([self._put_op(namespace, key, value, index, ttl, expected)])

    def history(self, namespace: tuple[str, ...], key: str) -> list[Versioned]:
        """Returns all versions of an item with their authors, oldest first; a deletion has the value None."""
        return self.documents.history(namespace, str(key))

    def sweep_ttl(self) -> int:
        """Deletes the items that have expired; returns how many they were."""
        return self.documents.sweep()

    def start_ttl_sweeper(self, sweep_interval_minutes: float | None = None) -> Future[None]:
        """Sweeps in a thread of its own until `stop_ttl_sweeper`; the future ends then, or with its error.

        Args:
            sweep_interval_minutes: How often; without it what `ttl` says, and 5 where that says nothing.
        """
        if self._sweeper is not None and not self._sweeper[1].done():
            return self._sweeper[1]
        minutes = sweep_interval_minutes or (self.ttl_config or {}).get("sweep_interval_minutes") or 5
        stop, done = threading.Event(), Future[None]()
        self._sweeper = (stop, done)

        def sweep() -> None:
            try:
                while not stop.wait(60 * float(minutes)):
                    self.sweep_ttl()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        threading.Thread(target=sweep, daemon=True, name="docendo-store-sweeper").start()
        return done

    def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        """Ends the sweeper; whether it has ended within `timeout` seconds."""
        if self._sweeper is None:
            return True
        stop, done = self._sweeper
        stop.set()
        try:
            done.exception(timeout)
        except TimeoutError:
            return False
        self._sweeper = None
        return True

    def _put_op(
        self,
        namespace: tuple[str, ...],
        key: str,
        value: Mapping[str, Any],
        index: Literal[False] | list[str] | None,
        ttl: float | NotProvided | None,
        expected: int | None,
    ) -> PutOp:
        if not namespace:
            raise InvalidNamespaceError("the namespace is empty; expected at least one label")
        check_labels(namespace)
        if namespace[0] == "langgraph":
            raise InvalidNamespaceError(
                f"the namespace {namespace} begins with 'langgraph', which is reserved"
            )
        if isinstance(ttl, NotProvided):
            ttl = (self.ttl_config or {}).get("default_ttl")
        if expected is None:
            return PutOp(namespace, str(key), value, index=index, ttl=ttl)
        return PutIf(namespace, str(key), value, index=index, ttl=ttl).expecting(expected)

    def _plan(self, ops: Iterable[Op]) -> Work:
        """Sorts operations by kind and collects what has to be embedded."""
        work = Work()
        for number, op in enumerate(ops):
            if isinstance(op, PutOp):
                check_labels(op.namespace)
                work.puts[(tuple(op.namespace), op.key)] = op
            elif isinstance(op, (GetOp, SearchOp, ListNamespacesOp)):
                work.reads.append((number, op))
                for path in labels_of(op):
                    check_labels(path)
                if isinstance(op, SearchOp) and op.query:
                    work.queries[op.query] = []
            else:
                raise ValueError(
                    f"the operation is a {type(op).__name__}; expected one of langgraph.store.base"
                )
            work.size = number + 1
        for place, op in work.puts.items():
            if op.value is not None and op.index is not False:
                self._index(work, place, op)
        return work

    def _index(self, work: Work, place: Place, op: PutOp) -> None:
        paths = self._paths if op.index is None else [tokenized(path) for path in op.index]
        whole = op.value or {}
        if self.embeddings is None:
            # The words of values alone: all items have the names of fields in common.
            texts = [text_of(whole)] if paths == [("$", "$")] else []
            work.words[place] = "\n".join(texts or texts_at(whole, paths).values())
            return
        for name, text in texts_at(whole, paths).items():
            work.texts.setdefault(text, []).append((place, name))

    def _checked(self, vectors: Sequence[Sequence[float]]) -> list[Sequence[float]]:
        for vector in vectors:
            if self._dims is not None and len(vector) != self._dims:
                raise ConfigError(f"the embedder makes {len(vector)} numbers", expected=f"dims={self._dims}")
        return list(vectors)

    def _run(self, work: Work) -> list[Result]:
        results: list[Result] = [None] * work.size
        database = self.board.database
        if not work.puts:
            with database.reading():
                seen = self._read(work, results)
        else:
            with database.transaction():
                seen = self._read(work, results)
                for place, op in work.puts.items():
                    self._write(work, place, op)
        # Items that were deleted or replaced in this batch have other numbers by now.
        self.documents.touch(seen)
        return results

    def _write(self, work: Work, place: Place, op: PutOp) -> None:
        expected = op.expected if isinstance(op, PutIf) else None
        if op.value is None:
            self.documents.delete(*place, expected=expected)
            return
        self.documents.put(
            *place,
            op.value,
            minutes=op.ttl,
            words=work.words.get(place, ""),
            vectors=work.vectors.get(place),
            expected=expected,
        )

    def _read(self, work: Work, results: list[Result]) -> list[Document]:
        """Answers the reading operations; returns the documents whose time begins anew."""
        seen: list[Document] = []
        omit = (self.ttl_config or {}).get("omit_expired", False)
        alive_at = self.board.database.now() if omit and work.reads else None
        for number, op in work.reads:
            if isinstance(op, ListNamespacesOp):
                results[number] = self._namespaces(op, alive_at)
                continue
            if isinstance(op, GetOp):
                document = self.documents.get(op.namespace, op.key, alive_at=alive_at)
                found = [] if document is None else [document]
                results[number] = None if document is None else BoardItem(document)
            else:
                found = self._search(op, work, alive_at)
                results[number] = [BoardSearchItem(document) for document in found]
            seen += found if op.refresh_ttl else []
        return seen

    def _search(self, op: SearchOp, work: Work, alive_at: float | None) -> list[Document]:
        wanted: Callable[[Mapping[str, Any]], bool] | None = None
        if op.filter:
            condition = op.filter

            def wanted(value: Mapping[str, Any]) -> bool:
                return accepts(value, condition)

        by_vector = bool(op.query) and self.embeddings is not None
        return self.documents.find(
            op.namespace_prefix,
            accept=wanted,
            holding=holding(op.filter or {}),
            words="" if by_vector else op.query or "",
            vector=work.queries[op.query or ""] if by_vector else None,
            alive_at=alive_at,
            limit=op.limit,
            offset=op.offset,
        )

    def _namespaces(self, op: ListNamespacesOp, alive_at: float | None) -> list[tuple[str, ...]]:
        conditions = op.match_conditions or ()
        start: list[str] = []
        for condition in conditions:
            if condition.match_type == "prefix" and "*" not in condition.path:
                start = max(start, list(condition.path), key=len)
        names = [
            name
            for name in self.documents.namespaces(start, alive_at=alive_at)
            if all(matches(name, condition) for condition in conditions)
        ]
        if op.max_depth is not None:
            names = sorted({name[: op.max_depth] for name in names})
        return names[op.offset : op.offset + op.limit]


def _fields(document: Document) -> dict[str, Any]:
    return {
        "namespace": document.namespace,
        "key": document.key,
        "value": dict(document.value),
        "created_at": datetime.fromtimestamp(document.created, UTC),
        "updated_at": datetime.fromtimestamp(document.updated, UTC),
    }
