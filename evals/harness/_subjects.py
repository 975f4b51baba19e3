"""Who can be asked in an evaluation, and by whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from docendo.errors import ConfigError
from docendo.evals.harness._replies import Asker
from docendo.records import Item, SamplingParams

#: How an answer is had: written by the subject, or of the choices the one that is likeliest under its model,
#: by the sum of the log-probabilities of its tokens, or by that sum for each byte of its text.
Method = Literal["generate", "likelihood", "likelihood-per-byte"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How subjects are asked: the checked arguments of an evaluation."""

    name: str
    sampling: SamplingParams | None = None
    samples: int = 1
    method: Method = "generate"
    concurrency: int = 64
    folder: Path | None = None


def asker_of(subject: Any, items: Sequence[Item], how: Manner) -> Asker:
    """Finds out of what kind a subject is.

    Raises:
        ConfigError: if it is of none, or cannot be asked this way.
    """
    if how.method not in get_args(Method):
        raise ConfigError(f"method is {how.method!r}", expected=f"one of {', '.join(get_args(Method))}")
    if isinstance(subject, type):
        raise ConfigError(f"the subject is the class {subject.__name__}", expected="an object of it")
    if hasattr(subject, "submit_score"):
        from docendo.evals.harness._models import Bare

        subject = Bare(subject)
    if hasattr(subject, "engine") and hasattr(subject, "messages"):
        return _of_agent(subject, items, how)
    if how.method != "generate":
        raise ConfigError(
            f"method is {how.method!r}, but the subject is neither an agent nor an engine",
            remedy="pass one, whose model can score the choices",
        )
    if how.sampling is not None:
        raise ConfigError(
            "sampling was given, but the subject is not an agent", remedy="set it where the calls are made"
        )
    if hasattr(subject, "ainvoke") and hasattr(subject, "get_graph"):
        return _of_graph(subject, items, how)
    if callable(subject):
        from docendo.evals.harness._functions import FunctionAsker

        return FunctionAsker(subject, name=how.name, samples=how.samples, concurrency=how.concurrency)
    raise ConfigError(
        f"the subject is a {type(subject).__name__}",
        expected="an agent, an engine, a compiled graph, or a function of an item",
    )


def _of_agent(agent: Any, items: Sequence[Item], how: Manner) -> Asker:
    from docendo.evals.harness._likelihood import LikelihoodAsker
    from docendo.evals.harness._models import GenerateAsker

    if how.method == "generate":
        return GenerateAsker(
            agent,
            name=how.name,
            sampling=how.sampling,
            samples=how.samples,
            keep_turns=how.folder is not None,
        )
    if how.samples > 1 or how.sampling is not None:
        raise ConfigError("samples or sampling was given, but choices are scored, not drawn")
    without = [item.id for item in items if not item.public.choices]
    if without:
        raise ConfigError(
            f"method is {how.method!r}, but {len(without)} items have no choices, such as {without[0]}",
            remedy="map a column to choices, or use method='generate'",
        )
    return LikelihoodAsker(agent, name=how.name, per_byte=how.method == "likelihood-per-byte")


def _of_graph(graph: Any, items: Sequence[Item], how: Manner) -> Asker:
    from docendo.evals.harness._graphs import GraphAsker

    if how.samples > 1:
        raise ConfigError(
            f"samples is {how.samples}, but the subject is a graph", remedy="evaluate it once for each seed"
        )
    return GraphAsker(graph, items, name=how.name, concurrency=how.concurrency)
