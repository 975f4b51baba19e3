"""A4D: two-stage retrieval: do a reranker and fused scores find more than a dense or a full-text search?

The four arms of the claim are dense retrieval (a sentence model), dense with a language model as reranker
(asked whether a text is relevant, or how likely the query is after it), fused scores, and BM25. Controls:
texts in random order, and a dense index whose vectors belong to other texts. Calibration uses dev queries
alone.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from _corpora import Corpus, Query, docstrings, word_problems
from _harness import Options
from _study import Finding, Study, difference

from docendo.agents import Engine, EngineEmbedder, EngineReranker, LikelihoodReranker, SentenceEmbedder
from docendo.memory import (
    Blackboard,
    Budget,
    CalibratedFusion,
    FullTextMemory,
    Memory,
    Reranker,
    TwoStageRetriever,
    VectorMemory,
    ndcg,
)
from docendo.memory.board._vectors import VectorIndex
from docendo.records import Author

SEEDS = 3
#: Entries that each first stage gives the second.
DEPTH = 10
LIBRARIAN = Author(agent="librarian", role="code")
CORPORA: dict[str, Callable[..., Corpus]] = {"docstrings": docstrings, "word problems": word_problems}
#: Dev and test queries per seed.
QUERIES = {"docstrings": (10, 24), "word problems": (6, 12)}

#: Per query, in order: nDCG@10 and recall@10.
Scores = dict[str, list[tuple[float, float]]]


class Swapped:
    """A dense index whose vectors are those of other texts; queries keep their own."""

    def __init__(self, embedder: Any, texts: Sequence[str], seed: int) -> None:
        others = list(texts)
        random.Random(f"swapped/{seed}").shuffle(others)
        self.other = dict(zip(texts, others, strict=True))
        self.embedder, self.fingerprint = embedder, f"{embedder.fingerprint}-swapped-{seed}"

    def embed(self, texts: Sequence[str]) -> Any:
        """The vectors of other texts."""
        return self.embedder.embed([self.other.get(text, text) for text in texts])


class Remembering:
    """A reranker that is asked once per query and text, however many arms want to know."""

    def __init__(self, reranker: Reranker) -> None:
        self.reranker = reranker
        self.known: dict[tuple[str, str], float] = {}

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """The scores, in the order of the texts."""
        new = [text for text in texts if (query, text) not in self.known]
        for text, score in zip(new, self.reranker.rerank(query, new), strict=True):
            self.known[query, text] = score
        return [self.known[query, text] for text in texts]


def measure(options: Options) -> Study:
    """All arms on both corpora."""
    arms: dict[str, dict[str, float | str]] = {}
    findings: list[Finding] = []
    detail: dict[str, Any] = {}
    with Engine.load(options.model) as engine:
        states = EngineEmbedder(engine)
        # A trial must not need a second model.
        sentences = states if options.quick else SentenceEmbedder.load()
        rerankers = {
            "yes or no": Remembering(EngineReranker(engine)),
            "likelihood": Remembering(LikelihoodReranker(engine)),
        }
        for name, make in CORPORA.items():
            dev, test = (4, 4) if options.quick else QUERIES[name]
            scores: Scores = {}
            for seed in range(1 if options.quick else SEEDS):
                corpus = make(seed, SEEDS, dev=dev, test=test)
                found = _arms(corpus, states, sentences, rerankers, seed=seed)
                print(f"A4D: {name}, seed {seed} done", file=sys.stderr, flush=True)
                for arm, values in found.items():
                    scores.setdefault(arm, []).extend(values)
            _report(name, scores, arms, findings)
            detail[name] = {
                "by seed": _by_seed(scores, 1 if options.quick else SEEDS),
                "test queries": len(scores["random order"]),
            }
        usage = [row for row in engine.ledger() if row["role"] == "reranker"]
        detail["reranker"] = {
            "calls": sum(row["calls"] for row in usage),
            "prompt tokens": sum(row["prompt_tokens"] for row in usage),
            "seconds": round(sum(row["seconds"] for row in usage), 1),
        }
    detail["brute force"] = _brute_force([1_000] if options.quick else [1_000, 10_000, 50_000, 100_000])
    return Study(
        name="A4D",
        setting=(
            "Docstrings of NumPy and SciPy (about 370 texts per seed, summary lines as queries, one relevant "
            "text) and word problems (300 texts of 100 templates, last sentences of other variants as "
            f"queries, three relevant texts); {SEEDS} seeds, each with own queries. Dense: all-minilm-l6-v2. "
            f"Reranker: {options.model}, over the first {DEPTH} of each stage; fused is its likelihood."
        ),
        arms=arms,
        findings=findings,
        notes=(
            "Of many differences at 95 % one in twenty is off by chance.",
            "Comparing a query with every vector (384 numbers) took, in milliseconds per read: "
            + ", ".join(f"{size} entries {ms}" for size, ms in detail["brute force"].items())
            + ".",
        ),
        detail=detail,
    )


def _arms(
    corpus: Corpus,
    states: EngineEmbedder,
    sentences: Any,
    rerankers: Mapping[str, Remembering],
    *,
    seed: int,
) -> Scores:
    """nDCG@10 and recall@10 of every arm for every test query of one corpus."""
    with Blackboard.open(":memory:") as board:
        words = FullTextMemory(board)
        with board.database.transaction():
            posts = [
                words.write(text, author=LIBRARIAN, key=str(number)).id
                for number, text in enumerate(corpus.texts)
            ]
        place = {post: number for number, post in enumerate(posts)}
        dense = VectorMemory(board, sentences)
        two = {"dense": dense, "words": words}
        both = TwoStageRetriever(two, candidates=DEPTH)
        reranker = rerankers["likelihood"]
        three = TwoStageRetriever(two, reranker, candidates=DEPTH)
        memories: dict[str, Memory] = {
            "BM25": words,
            "dense": dense,
            "dense, the language model's states": VectorMemory(board, states),
            "dense, vectors swapped": VectorMemory(board, Swapped(sentences, corpus.texts, seed)),
            **{
                f"dense, reranked by {name}": TwoStageRetriever(
                    {"dense": dense}, one, candidates=DEPTH, rerank_only=True
                )
                for name, one in rerankers.items()
            },
            "dense + BM25, ranks": both,
            "dense + BM25, calibrated": _calibrated(both, corpus.dev, posts, reranker=None),
            "dense + BM25 + reranker, ranks": three,
            "dense + BM25 + reranker, calibrated": _calibrated(three, corpus.dev, posts, reranker=reranker),
        }
        scores: Scores = {}
        for query in corpus.test:
            order = list(range(len(posts)))
            random.Random(f"{seed}/{query.text}").shuffle(order)
            scores.setdefault("random order", []).append(_scored(order, query))
            for arm, memory in memories.items():
                read = memory.read(query.text, Budget(entries=10))
                ranked = [place[entry.post.id] for entry in read]
                scores.setdefault(arm, []).append(_scored(ranked, query))
        return scores


def _calibrated(
    retriever: TwoStageRetriever, dev: Sequence[Query], posts: Sequence[str], *, reranker: Remembering | None
) -> TwoStageRetriever:
    judged = [retriever.judged(query.text, [posts[number] for number in query.relevant]) for query in dev]
    return TwoStageRetriever(
        retriever.stages, reranker, fusion=CalibratedFusion.fit(judged), candidates=DEPTH
    )


def _scored(ranked: Sequence[int], query: Query) -> tuple[float, float]:
    names = [str(number) for number in ranked[:10]]
    relevant = frozenset(map(str, query.relevant))
    return ndcg(names, relevant), len(relevant & set(names)) / len(relevant)


def _report(
    corpus: str, scores: Scores, arms: dict[str, dict[str, float | str]], findings: list[Finding]
) -> None:
    for arm, values in scores.items():
        row = arms.setdefault(arm, {})
        row[f"{corpus}: nDCG@10"] = statistics.fmean(value for value, _ in values)
        row[f"{corpus}: recall@10"] = statistics.fmean(value for _, value in values)

    def compare(of: str, over: str, control: Any = None) -> None:
        findings.append(
            difference(
                f"{corpus}: {of} over {over}",
                of=[value for value, _ in scores[of]],
                over=[value for value, _ in scores[over]],
                control=control,
            )
        )

    compare("dense", "BM25")
    compare("dense, the language model's states", "dense")
    compare("dense, reranked by yes or no", "dense")
    compare("dense, reranked by likelihood", "dense")
    compare("dense + BM25, ranks", "dense")
    compare("dense + BM25, ranks", "BM25")
    compare("dense + BM25, calibrated", "dense + BM25, ranks")
    compare("dense + BM25 + reranker, ranks", "dense + BM25, ranks")
    compare("dense + BM25 + reranker, calibrated", "dense + BM25, calibrated")
    compare("dense, vectors swapped", "dense", "loss")
    compare("dense, vectors swapped", "random order", "none")


def _by_seed(scores: Scores, seeds: int) -> Mapping[str, list[float]]:
    """nDCG@10 of each arm and seed: the queries of a seed lie side by side."""
    found = {}
    for arm, values in scores.items():
        size = len(values) // seeds
        parts = [values[seed * size : (seed + 1) * size] for seed in range(seeds)]
        found[arm] = [round(statistics.fmean(value for value, _ in part), 3) for part in parts]
    return found


def _brute_force(sizes: Sequence[int]) -> dict[str, float]:
    """Milliseconds to compare and sort so many vectors of 384 numbers, the middle of 9 reads."""
    taken = {}
    with Blackboard.open(":memory:") as board:
        for size in sizes:
            index = VectorIndex(board.database, _Random())
            index._rows = {str(number): number for number in range(size)}
            index._blocks = [np.random.default_rng(0).normal(size=(size, 384)).astype(np.float32)]
            runs = []
            for _ in range(9):
                began = time.perf_counter()
                np.argsort(-np.array(index.similarities("query")), kind="stable")
                runs.append(1000 * (time.perf_counter() - began))
            taken[str(size)] = round(statistics.median(runs), 1)
    return taken


class _Random:
    fingerprint = "random"

    def embed(self, texts: Sequence[str]) -> Any:
        return np.random.default_rng(1).normal(size=(len(texts), 384))
