"""What a checkpoint may hold: plain values and LangGraph's own, never an object that loading would build.

LangGraph's serializer can import and call what a checkpoint names. In its strict mode it calls nothing, but
the read succeeds all the same and leaves the arguments of the refused call in the state. Here such a read
is an error, and so is a write of what could not be read back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde import jsonplus
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Command, Interrupt, Overwrite, Send, TimeoutPolicy

from docendo.errors import ConfigError, DataError, IntegrityError

#: What LangGraph itself writes beside a graph's state.
_OWN = (Command, Interrupt, Overwrite, Send, TimeoutPolicy)
#: The form that is written: a digest and then msgpack, so that a flipped bit is an error as well.
_SEALED = "msgpack+sha256"
_DIGEST_BYTES = 32


class PlainSerializer(JsonPlusSerializer):
    """LangGraph's serializer for JSON values, bytes, LangGraph's own records, and classes that are allowed.

    Example:
        >>> serializer = PlainSerializer()
        >>> kind, data = serializer.dumps_typed({"answer": "4", "posts": ["5d41402a"]})
        >>> serializer.loads_typed((kind, data))
        {'answer': '4', 'posts': ['5d41402a']}
        >>> serializer.dumps_typed({"items": {1, 2}})
        Traceback (most recent call last):
        docendo.errors.DataError: the graph's state holds a builtins.set; expected JSON values; ...
    """

    def __init__(self, *, allow: Iterable[type] = ()) -> None:
        """`allow`: classes whose objects may be in the state and are built again when it is loaded.

        Raises:
            ConfigError: if one of them is not a class.
        """
        super().__init__(allowed_msgpack_modules=None)
        self._classes: dict[tuple[str, str], type] = {}
        for cls in (*_OWN, *allow):
            if not isinstance(cls, type):
                raise ConfigError(f"allow holds {cls!r}", expected="classes, such as pathlib.PurePosixPath")
            self._classes[cls.__module__, cls.__name__] = cls

    def with_msgpack_allowlist(self, extra_allowlist: Iterable[Any]) -> PlainSerializer:
        """Returns itself: only `allow` decides, not the types that a graph's schema names."""
        return self

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Writes a value, after a look at whether it can be read again.

        Raises:
            DataError: if it holds an object of a class that is not allowed, naming the class.
        """
        if obj is None:
            return "null", b""
        try:
            kind, data = super().dumps_typed(obj)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"the graph's state cannot be stored ({error})", expected="JSON values", remedy=_REMEDY
            ) from error
        if kind == "msgpack":
            refused: list[str] = []
            self._unpack(data, refused)
            if refused:
                raise DataError(
                    f"the graph's state holds a {refused[0]}", expected="JSON values", remedy=_REMEDY
                )
            return _SEALED, hashlib.sha256(data).digest() + data
        return kind, bytes(data)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Reads a value, building nothing but what is allowed.

        Raises:
            IntegrityError: if it names anything else, is damaged, or is of a kind that is not read.
        """
        kind, content = data
        if kind == "null":
            return None
        if kind in ("bytes", "bytearray"):
            return bytes(content) if kind == "bytes" else bytearray(content)
        if kind == _SEALED:
            seal, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
            if hashlib.sha256(content).digest() != seal:
                raise IntegrityError(
                    "a checkpoint does not match its checksum: it was damaged after it was written; "
                    "restore a backup, or start the run anew"
                )
        elif kind != "msgpack":  # what LangGraph's own savers write
            raise IntegrityError(
                f"a checkpoint holds a value of the kind {kind!r}, which is not loaded; {_BAD}"
            )
        refused: list[str] = []
        value = self._unpack(content, refused)
        if refused:
            raise IntegrityError(f"a checkpoint names {refused[0]}, which is not loaded; {_BAD}")
        return value

    def _unpack(self, data: bytes, refused: list[str]) -> Any:
        """Reads msgpack; what is not allowed is named in `refused`: a hook's error does not get out."""

        def hook(code: int, content: bytes) -> Any:
            parts = unpack(content)
            if code == jsonplus.EXT_DELTA_SNAPSHOT:
                return _DeltaSnapshot(parts)
            name = _named(code, parts)
            cls = self._classes.get(name)
            make = _BUILD.get(code)
            if cls is None or make is None:
                refused.append(".".join(name))
                return None
            try:
                return make(cls, parts)
            except Exception:  # a constructor raises what it likes
                refused.append(f"a malformed {'.'.join(name)}")
                return None

        def unpack(content: bytes) -> Any:
            return ormsgpack.unpackb(content, ext_hook=hook, option=ormsgpack.OPT_NON_STR_KEYS)

        try:
            return unpack(data)
        except (ValueError, TypeError, RecursionError):
            refused.append("something that is not msgpack")
            return None


_REMEDY = "post it and keep its id, or name its class in checkpointer(..., allow=[...])"
_BAD = (
    "whoever wrote it can write the database: find out who, and start the run anew (allow=[...] of "
    "checkpointer, if it is a class of yours)"
)


def _named(code: int, parts: Any) -> tuple[str, str]:
    """Module and name of what an extension stands for, as far as it says so."""
    if code == jsonplus.EXT_NUMPY_ARRAY:
        return "numpy", "ndarray"
    if isinstance(parts, (list, tuple)) and len(parts) >= 3 and all(isinstance(p, str) for p in parts[:2]):
        return str(parts[0]), str(parts[1])
    return "an extension of kind", str(code)


def _keywords(cls: type, parts: Any) -> Any:
    arguments = parts[2]
    if not isinstance(arguments, Mapping):
        raise TypeError
    return cls(**arguments)


# Methods are never called: no class that is allowed here needs one to be built.
_BUILD: dict[int, Callable[[type, Any], Any]] = {
    jsonplus.EXT_CONSTRUCTOR_SINGLE_ARG: lambda cls, parts: cls(parts[2]),
    jsonplus.EXT_CONSTRUCTOR_POS_ARGS: lambda cls, parts: cls(*parts[2]),
    jsonplus.EXT_CONSTRUCTOR_KW_ARGS: _keywords,
    jsonplus.EXT_PYDANTIC_V2: _keywords,
}
