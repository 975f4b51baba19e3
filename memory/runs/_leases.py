"""Who works on a run: one process at a time, and a dead one is noticed.

A process on this machine is asked for directly: its id and the time at which it started. One elsewhere (on
a shared server) must renew its lease; when it has not done so for `EXPIRES_SECONDS`, it counts as dead. If
it was only asleep, the lease's token is no longer its own, and what it writes for the run is refused.
"""

from __future__ import annotations

import functools
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from docendo.errors import ResumeError
from docendo.hashing import digest
from docendo.memory.storage import _schema, _text
from docendo.records import Record

#: How often a lease is renewed, and how long it holds without that where its process cannot be looked at.
BEAT_SECONDS = 10.0
EXPIRES_SECONDS = 60.0

# Claims that this process has not given up. A disk may be too full to write down that one has ended.
_kept: set[tuple[int, str]] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder(Record):
    """A process, told from every other one, also from a later one with the same id.

    Attributes:
        machine: The boot and the process-id space that `pid` is valid in.
        host: The machine's name, for messages.
        pid: Process id.
        started: When the process started, in the machine's ticks; "" where the system does not say.
    """

    machine: str
    host: str
    pid: int
    started: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease(Record):
    """A process's claim to a run.

    Attributes:
        run: The run's name.
        token: Made anew with each claim.
        holder: The process.
        taken: When it was claimed, in seconds since 1970 by the database's clock.
        beat: When it was renewed last.
    """

    run: str
    token: str
    holder: Holder
    taken: float
    beat: float

    def live(self, now: float) -> bool:
        """Whether the process still runs, as far as can be told from here; `now` is the database's clock."""
        fresh = now - self.beat < EXPIRES_SECONDS
        if self.holder.machine != _machine():
            return fresh
        started = _started(self.holder.pid)
        if started is None:
            return False
        if self.holder.pid == os.getpid() and started == self.holder.started:
            return (os.getpid(), self.token) in _kept
        return started == self.holder.started if started else fresh

    def refusal(self, now: float) -> ResumeError:
        """The error for whoever wants the run meanwhile."""
        return ResumeError(
            f"run {self.run!r} is running in {self.holder}, for {max(0.0, now - self.taken):.0f} s",
            remedy="wait for it, or end that process and resume the run",
        )


def this_process() -> Holder:
    """Who asks. Not kept between calls: a fork is another process."""
    pid = os.getpid()
    return Holder(machine=_machine(), host=socket.gethostname(), pid=pid, started=_started(pid) or "")


def read(connection: sa.Connection, run: str) -> Lease | None:
    """The lease of a run, live or not, or None.

    Raises:
        IntegrityError: if it is damaged, naming the run.
    """
    table = _schema.leases
    row = connection.execute(sa.select(table).where(table.c.run == run)).one_or_none()
    if row is None:
        return None
    _text.check_seal(
        row.hash, row.run, row.token, row.holder, row.taken, row.beat, record=f"lease of run {run!r}"
    )
    holder = Holder(**_text.decode(row.holder))
    return Lease(run=row.run, token=row.token, holder=holder, taken=row.taken, beat=row.beat)


def give_up(*held: Lease) -> None:
    """Says within this process that claims have ended, whether or not that could be written."""
    for lease in held:
        _kept.discard((lease.holder.pid, lease.token))


def give_up_all(held: dict[str, Lease]) -> None:
    """`give_up` for a store that is gone."""
    give_up(*held.values())


def take(connection: sa.Connection, run: str, moment: float) -> Lease:
    """Gives the run to this process; whoever had it loses it. Must run inside a write transaction."""
    lease = Lease(run=run, token=uuid.uuid4().hex, holder=this_process(), taken=moment, beat=moment)
    drop(connection, run)
    connection.execute(_schema.leases.insert().values(**_sealed(lease)))
    _kept.add((os.getpid(), lease.token))
    return lease


def renew(connection: sa.Connection, lease: Lease, moment: float) -> None:
    """Says that the holder is alive. Must run inside a write transaction."""
    table = _schema.leases
    values = _sealed(lease.replace(beat=moment))
    connection.execute(table.update().where(table.c.token == lease.token).values(**values))


def drop(connection: sa.Connection, run: str) -> None:
    """Ends a lease, if there is one. Must run inside a write transaction."""
    connection.execute(_schema.leases.delete().where(_schema.leases.c.run == run))


def _sealed(lease: Lease) -> dict[str, Any]:
    holder = _text.encode(lease.holder.to_json())
    values = (lease.run, lease.token, holder, lease.taken, lease.beat)
    return {
        **dict(zip(("run", "token", "holder", "taken", "beat"), values, strict=True)),
        "hash": digest(*values),
    }


@functools.cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # Containers on one machine have ids of their own.
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():x}"


def _started(pid: int) -> str | None:
    """When a process of this machine started, "" if the system does not say, None if there is none."""
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return ""
    try:
        # The name, in brackets, may hold anything, brackets too.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    # A zombie has ended; only its parent has not looked yet.
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()
