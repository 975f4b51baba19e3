"""`Rounds`: ask, learn from how it went, build, train, measure, again; resumable at every step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from docendo.checks import is_count
from docendo.distill.rounds._report import RoundRow, RoundsReport, row_of
from docendo.distill.rounds._round import Arrow, Chain, Round, round_seed
from docendo.errors import ConfigError
from docendo.files import require_writable, write_json
from docendo.memory import DATABASE, Database, RunStore
from docendo.progress import say


class Rounds:
    """An iterated loop of five arrows, each a plain function of a `Round` that returns JSON values.

    The result of an arrow is stored, atomically, before the next one begins. Killed anywhere, the same call
    with `resume=True` runs the arrow that was interrupted again and none that had finished. Results are bound
    to each other by digests: if one is removed and comes out otherwise, those after it are made anew. An
    arrow that is None is left out.

    Args:
        exam: Asks the student.
        feedback: Learns from how it went: a curriculum, a teacher, a verifier.
        build: Makes a data set.
        fit: Trains.
        evaluate: Measures. Its result needs `correct` and `n`, and may name the `adapter`. It is also asked
            before all rounds, as round 0.
        config: What the results depend on beside seeds, as JSON values; resumed rounds must have the same.

    Any result may have `tokens`, which are summed up. Times do not belong in results: they are kept beside
    them, so that the digest of two runs is the same.

    Example:
        >>> import tempfile
        >>> rounds = Rounds(
        ...     exam=lambda round: {"wrong": 10 - 3 * round.number, "tokens": 50},
        ...     feedback=None,
        ...     build=lambda round: {"rows": round.results["exam"]["wrong"]},
        ...     fit=None,
        ...     evaluate=lambda round: {"correct": 4 + 2 * round.number, "n": 10},
        ... )
        >>> report = rounds.run(tempfile.mkdtemp(), rounds=2, quiet=True)
        >>> [row.accuracy for row in report.rows], report.tokens
        ([0.4, 0.6, 0.8], 100)
    """

    def __init__(
        self,
        exam: Arrow | None,
        feedback: Arrow | None,
        build: Arrow | None,
        fit: Arrow | None,
        evaluate: Arrow,
        *,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        given = {"exam": exam, "feedback": feedback, "build": build, "fit": fit, "evaluate": evaluate}
        for name, arrow in given.items():
            if not callable(arrow) and (arrow is not None or name == "evaluate"):
                raise ConfigError(f"{name} is {arrow!r}", expected="a function of a Round")
        self.arrows: dict[str, Arrow] = {name: arrow for name, arrow in given.items() if arrow is not None}
        self.config = dict(config or {})

    def run(
        self,
        folder: str | Path,
        *,
        rounds: int = 3,
        seed: int = 0,
        tokens: int | None = None,
        resume: bool = False,
        database: Database | None = None,
        quiet: bool = False,
    ) -> RoundsReport:
        """Runs the rounds.

        Args:
            folder: Where everything is kept: `docendo.db`, `round-N/ARROW.json` and `report.json`. Its name
                is that of the run.
            rounds: Number of rounds. A run that has ended may be resumed with more.
            seed: Seed that those of the rounds are derived from.
            tokens: Budget: no round begins when so many have been counted. One that has begun ends.
            resume: Go on with rounds that were stopped.
            database: An open database to use instead of the folder's own.
            quiet: Print nothing.

        Returns:
            The report.

        Raises:
            ConfigError: if a setting cannot be used.
            DataError: if an arrow returns something else than JSON values.
            ResumeError: if the run exists and `resume` is false, another process works on it, or it has
                another configuration.
            IntegrityError: if a stored result is damaged.
        """
        _require(rounds, seed, tokens)
        folder = Path(folder).resolve()
        require_writable(folder)
        resolved = {"rounds": list(self.arrows), "seed": seed, **self.config}
        with ExitStack() as stack:
            if database is None:
                folder.mkdir(parents=True, exist_ok=True)
                database = stack.enter_context(Database.open(folder / DATABASE))
            stack.enter_context(RunStore(database).running(folder.name, resolved, resume=resume))
            chain = Chain(folder, resolved)
            write_json(folder / "config.json", resolved)
            rows: list[RoundRow] = []
            history: list[dict[str, Any]] = []
            stopped = f"All {rounds} rounds are done."
            for number in range(rounds + 1):
                spent = sum(row.tokens for row in rows)
                if tokens is not None and number > 0 and spent >= tokens:
                    stopped = f"The budget of {tokens:,} tokens is spent after round {number - 1}."
                    break
                place = Round(
                    number=number,
                    seed=round_seed(seed, number),
                    folder=folder / f"round-{number}",
                    database=database,
                    history=tuple(history),
                    quiet=quiet,
                )
                results, seconds = self._round(place, chain, rounds)
                history.append(results)
                rows.append(row_of(number, results, seconds))
                _tell(rows[-1], quiet)
            report = RoundsReport(
                rows=tuple(rows), digest=chain.link, stopped=stopped, seed=seed, budget=tokens
            )
            write_json(folder / "report.json", report.to_json())
        return report

    def _round(self, place: Round, chain: Chain, rounds: int) -> tuple[dict[str, Any], float]:
        """The results of a round by arrow, and what they took."""
        names = self.arrows if place.number else ("evaluate",)
        results: dict[str, Any] = {}
        seconds = 0.0
        for name in names:
            stored = chain.get(place.number, name)
            if stored is None:
                if not place.quiet:
                    say(f"round {place.number} of {rounds}: {name}")
                began = time.monotonic()
                given = Round(
                    number=place.number,
                    seed=place.seed,
                    folder=place.folder,
                    database=place.database,
                    results=dict(results),
                    history=place.history,
                    quiet=place.quiet,
                )
                made = self.arrows[name](given)
                stored = chain.put(place.number, name, made, time.monotonic() - began)
            results[name] = stored["result"]
            seconds += stored["seconds"]
        return results, seconds


def _require(rounds: int, seed: int, tokens: int | None) -> None:
    checks = (
        ("rounds", rounds, is_count(rounds) and rounds >= 1, "at least 1"),
        ("seed", seed, is_count(seed), "a whole number"),
        ("tokens", tokens, tokens is None or (is_count(tokens) and tokens >= 1), "at least 1, or None"),
    )
    for name, value, good, expected in checks:
        if not good:
            raise ConfigError(f"{name} is {value!r}", expected=expected)


def _tell(row: RoundRow, quiet: bool) -> None:
    if not quiet:
        low, high = (100 * bound for bound in row.interval)
        say(
            f"round {row.round}: {100 * row.accuracy:.1f} % right "
            f"({row.correct}/{row.n}, 95 % interval {low:.1f} to {high:.1f})"
        )
