"""Long values once: what is stored in several places is kept by the digest of its content.

An answer is a post's text, a trace's completion and part of a journal entry. Each of them holds JSON, in
which a long text, list or mapping is replaced by a reference to its payload. Values are taken apart from
the inside out, so equal parts of different values are shared as well.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from docendo.errors import IntegrityError
from docendo.memory.storage import _schema
from docendo.memory.storage._chain import Damage
from docendo.memory.storage._text import encode

if TYPE_CHECKING:
    from docendo.memory.storage._database import Database

#: Values whose JSON is shorter stay where they are: a reference and its row take about as much.
LEAST_BYTES = 160
#: The same for values that come again and again, such as authors.
LEAST_REPEATED_BYTES = 64
#: The key of a reference, `{DEL: hash}`: one byte, also in JSON. A key of a value that is DEL alone, once or
#: more, is stored with one more.
_MARK = "\x7f"
#: How a reference begins in the text of a row, and all of it.
SIGN = f'{{"{_MARK}":"'
_REFERENCE = re.compile(rf'\{{"{_MARK}":"([A-Za-z0-9_-]{{43}})"\}}')
INCOMPLETE = "a part of its content is missing or damaged"
_PLAIN, _DEFLATED = b"t", b"z"
#: Up to so many bytes of new parts are stored without asking which of them are there: of a post of 1 KB that
#: saves a tenth of the processor's time.
_SMALL_BYTES = 8192
_BATCH = 500
_BY_HASH = sa.select(_schema.payloads).where(
    _schema.payloads.c.hash.in_(sa.bindparam("wanted", expanding=True))
)

_THERE = sa.select(_schema.payloads.c.hash).where(
    _schema.payloads.c.hash.in_(sa.bindparam("wanted", expanding=True))
)


def store(database: Database, connection: sa.Connection, value: Any, *, whole: bool = False) -> str:
    """Stores the long parts of a plain JSON value and returns the JSON text that refers to them.

    Must run inside a write transaction. With `whole` the value itself counts as a part: for values that
    come again and again.
    """
    text, parts = prepare(value, whole=whole)
    keep(database, connection, parts)
    return text


def prepare(value: Any, *, whole: bool = False) -> tuple[str, dict[str, bytes]]:
    """The text that `store` returns, and the parts that it stores, by their hashes."""
    found: dict[str, bytes] = {}
    if isinstance(value, Mapping) and not whole:
        text = encode({_kept(key): _taken_apart(entry, found) for key, entry in value.items()})
    else:
        text = encode(_taken_apart(value, found, least=LEAST_REPEATED_BYTES if whole else LEAST_BYTES))
    return text, found


def keep(database: Database, connection: sa.Connection, parts: Mapping[str, bytes]) -> None:
    """Stores parts that are not there yet. Must run inside a write transaction."""
    names = list(parts)
    there: set[str] = set()
    # What is small is packed sooner than looked up; one that is there is left alone either way.
    small = sum(map(len, parts.values())) <= _SMALL_BYTES
    for start in range(0, 0 if small else len(names), _BATCH):
        there.update(connection.scalars(_THERE, {"wanted": names[start : start + _BATCH]}))
    rows = [{"hash": name, "data": _packed(parts[name])} for name in names if name not in there]
    database.insert_new(connection, _schema.payloads, *rows)


def load(connection: sa.Connection, texts: Iterable[str]) -> list[Any]:
    """Reads values back, in order.

    Raises:
        IntegrityError: if a payload is missing or damaged, naming it.
    """
    values = [json.loads(text) for text in texts]
    known: dict[str, Any] = {}
    wanted = {name for value in values for name in _references(value)}
    while wanted:
        fresh = {name: json.loads(text) for name, text in _read(connection, wanted).items()}
        known.update(fresh)
        wanted = {name for value in fresh.values() for name in _references(value)} - known.keys()
    return [_put_together(value, known) for value in values]


def references(text: str) -> set[str]:
    """The hashes that a stored JSON text refers to directly."""
    return set(_references(json.loads(text)))


def mentioned(text: str) -> set[str]:
    """As `references`, found without reading the JSON: in any text, also where one only looks like it."""
    return {_spelled_out(short) for short in _REFERENCE.findall(text)}


def texts_of(connection: sa.Connection, names: set[str]) -> dict[str, str]:
    """The stored texts of payloads by their hashes; a payload that is missing is left out.

    Raises:
        IntegrityError: if one is damaged, naming it.
    """
    ordered, there = sorted(names), set[str]()
    for start in range(0, len(ordered), _BATCH):
        there.update(connection.scalars(_THERE, {"wanted": ordered[start : start + _BATCH]}))
    return _read(connection, there)


def verify(connection: sa.Connection) -> tuple[set[str], list[Damage]]:
    """Recomputes the digests of all payloads; returns the intact ones and the damage."""
    intact: set[str] = set()
    damage: list[Damage] = []
    within: dict[str, set[str]] = {}
    table = _schema.payloads
    for row in connection.execute(sa.select(table).order_by(table.c.hash)):
        try:
            within[row.hash] = references(_opened(row.hash, row.data))
            intact.add(row.hash)
        except IntegrityError:
            damage.append(
                Damage(record="payload", id=str(row.hash), reason="content does not match its hash")
            )
    for name, names in within.items():
        if not names <= within.keys():
            damage.append(Damage(record="payload", id=name, reason="a part of it is missing"))
    return intact, damage


def _taken_apart(value: Any, found: dict[str, bytes], *, least: int = LEAST_BYTES) -> Any:
    if isinstance(value, Mapping):
        value = {_kept(key): _taken_apart(entry, found) for key, entry in value.items()}
    elif isinstance(value, (list, tuple)):
        value = [_taken_apart(entry, found) for entry in value]
    elif not isinstance(value, str):
        return value
    # Most values are short, and this is much cheaper than encoding them.
    if isinstance(value, str) and len(value) * 4 < least:
        return value
    text = encode(value)
    raw = text.encode()
    if len(raw) < least:
        return value
    name = hashlib.sha256(raw).hexdigest()
    found[name] = raw
    return {_MARK: _shortened(name)}


def _kept(key: str) -> str:
    return _MARK + key if key[:1] == _MARK and not key.strip(_MARK) else key


def _given(key: str) -> str:
    return key[1:] if key[:1] == _MARK and not key.strip(_MARK) else key


def _packed(raw: bytes) -> bytes:
    deflated = zlib.compress(raw, 6)
    return _DEFLATED + deflated if len(deflated) < len(raw) else _PLAIN + raw


def _shortened(name: str) -> str:
    return base64.urlsafe_b64encode(bytes.fromhex(name)).decode().rstrip("=")


def _spelled_out(short: str) -> str:
    return base64.urlsafe_b64decode(f"{short}=").hex()


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if _MARK in value:
            yield _spelled_out(value[_MARK])
            return
        for entry in value.values():
            yield from _references(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _references(entry)


def _put_together(value: Any, known: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        if _MARK in value:
            return _put_together(known[_spelled_out(value[_MARK])], known)
        return {_given(key): _put_together(entry, known) for key, entry in value.items()}
    if isinstance(value, list):
        return [_put_together(entry, known) for entry in value]
    return value


def _read(connection: sa.Connection, names: set[str]) -> dict[str, str]:
    wanted, texts = sorted(names), {}
    for start in range(0, len(wanted), _BATCH):
        for row in connection.execute(_BY_HASH, {"wanted": wanted[start : start + _BATCH]}):
            texts[row.hash] = _opened(row.hash, row.data)
    for name in wanted:
        if name not in texts:
            raise IntegrityError(f"payload {name} is missing; restore a backup")
    return texts


def _opened(name: str, data: Any) -> str:
    try:
        raw = zlib.decompress(data[1:]) if data[:1] == _DEFLATED else data[1:]
        if data[:1] in (_PLAIN, _DEFLATED) and hashlib.sha256(raw).hexdigest() == name:
            return str(raw.decode())
    except (zlib.error, TypeError, UnicodeDecodeError):
        pass
    raise IntegrityError(
        f"payload {name} does not match its checksum: it was damaged after it was written; restore a backup"
    )
