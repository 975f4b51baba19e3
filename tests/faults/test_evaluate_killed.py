"""An evaluation of 1,000 items that is killed ten times ends with the file that an undisturbed one has.

The short form has 120 items and five kills.

A real (tiny) model, sampled, under `invariant`; and a graph over it. What was asked is noted: nothing whose
answer was kept may be asked again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_bars import FULL
from fault_forks import Order, Ready, serving

pytestmark = pytest.mark.slow

ITEMS, KILLS = (1000, 10) if FULL else (120, 5)


def works(model: str) -> dict[str, Callable[[Order, Ready], object]]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from docendo import Engine, Student, evals, graphs

    _ = Engine, Student, evals.evaluate, graphs.run
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    items = [evals.make_item(f"What is {n} + 1?", n + 1, split="test") for n in range(ITEMS)]
    return {"evaluate": lambda order, ready: measure(loaded, tokenizer, items, order, ready)}


def measure(model: Any, tokenizer: Any, items: list[Any], order: Order, ready: Ready) -> None:
    from docendo import Engine, Student, evals
    from docendo.records import SamplingParams

    log = os.open(order["folder"] + ".log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    class Noting(Engine):
        def _job(self, request: Any, *args: Any) -> Any:
            os.write(log, f"{request.origin.item}\n".encode())
            return super()._job(request, *args)

    engine = Noting(model, tokenizer, determinism="invariant", max_queue=32)
    sampling = SamplingParams(max_tokens=6, temperature=1.0, seed=3)
    student = Student(engine, sampling=sampling)
    subject: Any = student if order["subject"] == "agent" else graph_of(student)
    ready()
    with engine:
        evals.evaluate(
            subject,
            items[: order["items"]],
            scorer=evals.ExactScorer(),
            name="killed",
            folder=order["folder"],
            samples=order["samples"],
            concurrency=16,
            quiet=True,
        )


def graph_of(student: Any) -> Any:
    from langgraph.graph import START, StateGraph

    from docendo import RunContext
    from docendo.graphs import node

    async def answer(state: Any, context: RunContext) -> Any:
        item = context.public(state["item"])
        turn = await context.ask(student, item.id, student.messages(item), node="answer")
        return {"answer": turn.text}

    made = StateGraph(dict, context_schema=RunContext).add_node("answer", node(answer, "answer"))
    return made.add_edge(START, "answer").compile()


@pytest.mark.parametrize(
    ("subject", "items", "samples"), [("agent", ITEMS, 2), ("graph", ITEMS // 4, 1)], ids=["agent", "graph"]
)
def test_a_killed_evaluation_ends_with_the_same_file(
    tmp_path: Path, tiny_model_dir: Path, subject: str, items: int, samples: int
) -> None:
    order = {"subject": subject, "items": items, "samples": samples}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    rng = random.Random(1)
    with serving(__file__, str(tiny_model_dir)) as server:
        duration = server.run("evaluate", fine=(0,), folder=str(whole), **order).seconds
        kills = 0
        for _ in range(40):
            # Ever later: each process gets somewhere, the last to the end.
            moment = duration * rng.uniform(0.05, 0.3)
            ended = server.run("evaluate", folder=str(killed), kill_after=moment, **order)
            kills += ended.killed
            if kills == KILLS or not ended.killed:
                break
        server.run("evaluate", fine=(0,), folder=str(killed), **order)
    assert kills >= 3
    assert (killed / "items.jsonl").read_bytes() == (whole / "items.jsonl").read_bytes()
    from docendo.evals import EvalResult

    first, second = EvalResult.load(whole), EvalResult.load(killed)
    assert first.correct + sum(r.correct is False for r in first.records) + first.failed == items
    assert second.replace(seconds=0.0).summary().keys() == first.summary().keys()
    asked = (tmp_path / "killed.log").read_text().split()
    # Of each process at most what was in flight was lost.
    assert items <= len(asked) <= items + (kills + 1) * 64
    assert len((tmp_path / "whole.log").read_text().split()) == items
