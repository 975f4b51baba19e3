"""Texts and queries whose relevant texts are known, from what is installed: no network, no labels by hand."""

from __future__ import annotations

import importlib
import inspect
import random
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_MODULES = (
    *("numpy", "numpy.linalg", "numpy.fft", "numpy.random"),
    *("scipy.cluster.hierarchy", "scipy.fft", "scipy.integrate", "scipy.interpolate", "scipy.linalg"),
    *("scipy.ndimage", "scipy.optimize", "scipy.signal", "scipy.sparse", "scipy.spatial", "scipy.special"),
    "scipy.stats",
)
_LONGEST = 70
_VARIANTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query, and which texts of the corpus are relevant."""

    text: str
    relevant: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Texts, queries to fit on, and others to measure on.

    Attributes:
        texts: What is searched.
        dev: Queries for calibration.
        test: Queries for measurement; none has the text of a dev query.
    """

    texts: Sequence[str]
    dev: Sequence[Query]
    test: Sequence[Query]

    def __post_init__(self) -> None:
        """A query that was fitted on proves nothing."""
        shared = {query.text.casefold() for query in self.dev} & {
            query.text.casefold() for query in self.test
        }
        if shared:
            raise SystemExit(f"dev and test queries have the same text: {sorted(shared)[0]!r}")


def docstrings(part: int, parts: int, *, dev: int, test: int) -> Corpus:
    """Descriptions of NumPy's and SciPy's functions; the query is the summary line, which is taken out.

    One text is relevant for each query. Parts share no function.
    """
    pairs = sorted(_summaries().items())
    random.Random("docstrings").shuffle(pairs)
    mine = pairs[part::parts]
    queries = [Query(text=summary, relevant=frozenset([number])) for number, (summary, _) in enumerate(mine)]
    return Corpus(texts=[body for _, body in mine], dev=queries[:dev], test=queries[dev : dev + test])


def word_problems(part: int, parts: int, *, dev: int, test: int) -> Corpus:
    """Word problems of 100 templates, three variants each; the query is the last sentence of a fourth.

    The three variants of its template, with other names and numbers, are relevant. Parts share no template
    among their queries.
    """
    import reasoning_gym

    generators = reasoning_gym.create_dataset("gsm_symbolic", size=1, seed=0).generators
    texts = [
        _problem(generators[template], f"{part}/{template}/{variant}")
        for template in range(len(generators))
        for variant in range(_VARIANTS)
    ]
    order = list(range(len(generators)))
    random.Random("templates").shuffle(order)
    queries: dict[str, Query] = {}
    for template in order[part::parts]:
        asked = _problem(generators[template], f"{part}/{template}/query")
        sentence = re.split(r"(?<=[.?!])\s+", asked.strip())[-1]
        relevant = frozenset(range(template * _VARIANTS, (template + 1) * _VARIANTS))
        queries.setdefault(sentence.casefold(), Query(text=sentence, relevant=relevant))
    chosen = list(queries.values())
    return Corpus(texts=texts, dev=chosen[:dev], test=chosen[dev : dev + test])


def _problem(generator: Callable[..., Mapping[str, object]], seed: str) -> str:
    """A variant of a template; some seeds lead a template nowhere, then the next one counts."""
    for attempt in range(100):
        try:
            return str(generator(random.Random(f"{seed}/{attempt}"), 1.0)["question"])
        except ValueError:
            continue
    raise SystemExit(f"a template of word problems gives nothing for {seed}")


def _summaries() -> Mapping[str, str]:
    """Summary line and description by function; each text once."""
    found: dict[str, str] = {}
    bodies: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that are on their way out
        for module in map(importlib.import_module, _MODULES):
            for name in sorted(dir(module)):
                doc = getattr(getattr(module, name), "__doc__", None)
                if name.startswith("_") or not isinstance(doc, str) or not callable(getattr(module, name)):
                    continue
                summary, body = _split(doc)
                if 4 <= len(summary.split()) <= 30 and len(body.split()) >= 12 and body not in bodies:
                    bodies.add(body)
                    found.setdefault(summary, body)
    return found


def _split(doc: str) -> tuple[str, str]:
    """The summary line, and at most 70 words of the description before the first headline."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", inspect.cleandoc(doc))]
    paragraphs = [part for part in paragraphs if part and not re.match(r"[\w.]+\(.*\)", part)]
    described: list[str] = []
    for part in paragraphs[1:]:
        if re.search(r"-{4,}", part):
            break
        described += part.split()
    return paragraphs[0] if paragraphs else "", " ".join(described[:_LONGEST])
