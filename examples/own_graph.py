"""A graph of one's own: the student drafts, a critic remarks, the student revises.

python examples/own_graph.py
"""

from typing import TypedDict

from langgraph.graph import START, StateGraph

import docendo
from docendo import Agent, Engine, RunContext, SamplingParams, Student, Verifier, distill, evals
from docendo.graphs import node
from docendo.quoting import quoted


class State(TypedDict, total=False):
    """An item's id and the answer to it."""

    item: str
    answer: str


def main(model: str = "smollm2-135m-instruct", train: int = 200, test: int = 200, steps: int = 50) -> None:
    task = evals.tasks("reasoning_gym:chain_sum", train=train, test=test, max_terms=3, max_digits=1)
    with Engine.load(model) as engine:
        student = Student(engine, sampling=SamplingParams(max_tokens=24, temperature=0.8, n=8))
        critic = Agent(engine, role="critic", prompt="{question} A student says:\n{said}\nWhat is wrong?")
        verifier = Verifier(task.scorer)

        async def answer(state: State, context: RunContext) -> State:
            item = context.public(state["item"])
            draft = await context.ask(student, item.id, student.messages(item), node="draft")
            said = quoted(draft.text)  # another agent's words enter a prompt as data
            remark = await context.ask(critic, item.id, critic.messages(item, said=said), node="hint")
            history = student.messages(item, history=[(draft.text, remark.text)])
            final = await context.ask(student, item.id, history, node="revise")
            for text, trace in zip(draft.texts + final.texts, draft.traces + final.traces, strict=True):
                correct = verifier.check(context.item(item.id), text).correct
                context.traces.reward(trace, "verified", float(correct))
            return {"answer": final.text}

        graph = StateGraph(State, context_schema=RunContext).add_node("answer", node(answer, "answer"))
        graph = graph.add_edge(START, "answer").compile()

        before = evals.evaluate(student, task.test, scorer=task.scorer, name="before")
        run = docendo.run(graph, task.train, name="own-graph")
        data = distill.sft_dataset(run.traces(), student=student, items=task.train, exclude=task.test)
        config = distill.TrainConfig(max_steps=steps)
        adapter = distill.train(model, data, output="adapters/own-graph", config=config)
        engine.load_adapter("taught", adapter.path)
        after = evals.evaluate(student.with_adapter("taught"), task.test, scorer=task.scorer, name="after")
        print(evals.compare(before, after))


if __name__ == "__main__":
    main()
