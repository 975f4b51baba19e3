"""Which beginnings rows hold together: chosen when a row starts, given up when it is the last one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from docendo.agents._jobs import Job
from docendo.agents._prefixes import Beginning, Match, shared_length
from docendo.agents._rows import Row
from docendo.agents._slots import KEY_BLOCK, Shared, SlotCache, Stored, whole_blocks

#: Bytes of a layer that a pass must not have to read again and again for rows to share a beginning: their
#: attention then has one more call and sum, which take 100 microseconds on two cores.
LEAST_SHARED_BYTES = 1 << 20


class Sharing:
    """What the rows of a loop have in common.

    A row that shares holds in its slot what follows. Without memory for a beginning rows copy it.
    """

    def __init__(self, cache: SlotCache, *, max_rows: int, enabled: bool) -> None:
        """`max_rows` is how many rows run at once; unless `enabled` nothing is ever shared."""
        self.cache, self.max_rows, self._enabled = cache, max_rows, enabled

    @property
    def enabled(self) -> bool:
        """Whether rows may share beginnings at all."""
        return self._enabled and self.cache.sharing

    def beginning(
        self, job: Job, match: Match, rows: Sequence[Row], waiting: Iterable[Job]
    ) -> Beginning | None:
        """What of a stored beginning a job shares with other rows: what some share already, or another.

        Args:
            job: A job that is about to get a row.
            match: Its stored beginning.
            rows: The rows that run. Some hold what they could share in their slots; they count all the same,
                because what came before may come again.
            waiting: The jobs that come next.
        """
        if not match.length or not self.enabled:
            return None
        key, _ = job.prefix(len(job.prompt) - 1)
        running = {id(row.shared): row.shared for row in rows if row.shared}.values()
        fitting = [one for one in running if one.length <= match.length and one.begins(key, job.context)]
        longest = max(fitting, key=lambda one: one.length, default=None)
        if longest and 2 * longest.length >= match.length:
            return longest
        jobs = {id(other): other for other in (*(row.job for row in rows), *waiting) if other is not job}
        length = self._length(job, match, jobs.values(), longest.length if longest else 0)
        if not length:
            return longest
        try:
            stored = Stored.of(match.part(0, length)).alone()
        except RuntimeError:  # no memory
            return longest
        return Beginning(key=key, tokens=tuple(job.context[:length]), stored=stored)

    def _length(self, job: Job, match: Match, others: Iterable[Job], least: int) -> int:
        """Of a job's beginning the longest part whose last stretch is worth sharing, or 0; above `least`."""
        key, _ = job.prefix(len(job.prompt) - 1)
        opening = job.context[: 2 * KEY_BLOCK]
        lengths = []
        for other in others:
            if other.whole or other.context[: 2 * KEY_BLOCK] != opening:
                continue
            other_key, limit = other.prefix(len(other.prompt) - 1)
            if other_key != key:
                continue
            common = min(shared_length(job.context, other.context), match.length, limit)
            lengths.append(_whole_blocks(common))
        lengths.sort(reverse=True)
        for number, length in enumerate(lengths[: self.max_rows - 1], start=1):
            shorter = next((one for one in lengths[number:] if one < length), 0)
            if length > least and self._worth(number * (length - max(shorter, least))):
                return length
        return 0

    def _worth(self, tokens: int) -> bool:
        """Whether not reading so many tokens in a pass outweighs what sharing costs."""
        return tokens * self.cache.bytes_per_token >= LEAST_SHARED_BYTES * self.cache.shape.layers

    def among_samples(self, row: Row, slot: int, further: int) -> None:
        """Takes a prompt out of its slot, to be shared by so many further samples, where that is worth it."""
        # Others may join where its keys and values depend on no adapter that they do not have; the last token
        # of a prompt is always computed, so they could not join behind it.
        key, limit = row.job.prefix(len(row.context))
        length = _whole_blocks(min(row.length - 1, limit))
        joinable = 2 * length >= row.length
        if not joinable:
            length = _whole_blocks(row.length - 1)
        before = row.shared.length if row.shared else 0
        if not self.enabled or not length or not self._worth(further * (length - before) - before):
            return
        try:
            stored, rest = self.read(row, slot, 0, length), self.read(row, slot, length, row.length)
        except RuntimeError:  # no memory
            return
        tokens = tuple(row.context[:length]) if joinable else None
        row.shared = Beginning(key=key, tokens=tokens, stored=stored)
        self.cache.write(slot, 0, rest)

    def take_back(self, rows: Sequence[Row], gone: Iterable[Row], waiting: Sequence[Job]) -> None:
        """Puts beginnings into the slot of the last row that has them: reading them apart spares nothing now.

        They stay apart where a job that waits could join, or where the slots would have to grow.

        Args:
            rows: The rows that run.
            gone: Those that have just ended.
            waiting: The jobs that come next.
        """
        for beginning in {row.shared for row in gone if row.shared}:
            slots = [slot for slot, row in enumerate(rows) if row.shared is beginning]
            if len(slots) != 1:
                continue
            (slot,), row = slots, rows[slots[0]]
            room = len(rows) * whole_blocks(row.job.longest) * self.cache.bytes_per_token
            if row.length > self.cache.length or room > self.cache.limit_bytes:
                continue
            if any(beginning.begins(job.prefix(len(job.prompt) - 1)[0], job.context) for job in waiting):
                continue
            own = self.cache.read(slot, 0, row.held)
            self.cache.write(slot, 0, beginning.stored)
            self.cache.write(slot, beginning.length, own)
            row.shared = None

    def read(self, row: Row, slot: int, start: int, stop: int) -> Stored:
        """A copy of a row's keys and values from one token to another."""
        before = row.length - row.held
        if row.shared is None or start >= before:
            return self.cache.read(slot, start - before, stop - before)
        shared = row.shared.stored.part(start, min(stop, before))
        if stop <= before:
            return shared.clone()
        return Stored.of([shared, self.cache.part(slot, 0, stop - before)])

    def places(self, rows: Sequence[tuple[Row, int, int]], total: int) -> list[Shared]:
        """The beginnings that rows of a pass share, and which of its tokens are theirs.

        Args:
            rows: The rows, and from where to where their tokens stand in the pass.
            total: How many tokens the pass has.
        """
        places: dict[Beginning, list[int]] = {}
        for row, start, stop in rows:
            if row.shared:
                places.setdefault(row.shared, []).extend(range(start, stop))
        return [
            Shared(one.stored, None if len(at) == total else torch.tensor(at, device=self.cache.device))
            for one, at in places.items()
        ]

    def tokens(self, rows: Iterable[Row]) -> int:
        """How many tokens beginnings hold."""
        return sum(one.length for one in {row.shared for row in rows if row.shared})


def _whole_blocks(tokens: int) -> int:
    """How many of a beginning's tokens are shared: attention over other numbers of keys is slow."""
    return tokens - tokens % KEY_BLOCK if tokens >= 2 * KEY_BLOCK else 0
