"""A person teaches: asked where the coordinator does not know, and again whether the answer is right.

What the person said on the way to a verified answer becomes a row to learn from.

python examples/human_teacher.py
"""

from collections.abc import Callable
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from docendo import Engine, RunContext, distill, graphs
from docendo.records import Gold, Item, PublicItem


class Novice(graphs.Coordinator):
    """Asks the person first, whatever it writes, and answers with what it makes of the reply."""

    def decide(self, text: str, *, moves: int = 0) -> graphs.Move:
        """A small model does not know what it does not know."""
        if not moves:
            return graphs.Move(kind="ask", text="How is this answered?")
        return graphs.Move(kind="answer", text=text.strip())


def main(model: str = "smollm2-135m-instruct", reply: Callable[[dict[str, Any]], str] | None = None) -> Any:
    """Runs until the answer is judged, and returns the rows that come of it."""
    question = PublicItem(id="unit", question="How many grams has a pound of tea here?", split="train")
    item = Item(public=question, gold=Gold("500"))
    reply = reply or (lambda asked: input(f"{asked}\nyou: "))
    with Engine.load(model) as engine:
        graph = graphs.coordinator_worker(
            Novice(engine),
            graphs.Member(engine, name="worker"),
            human=graphs.Human(name="teacher", role="teacher"),
            verifier=graphs.Human(name="examiner", role="verifier"),
            steps=3,
            checkpointer=InMemorySaver(),
        )
        thread, context = {"configurable": {"thread_id": item.id}}, RunContext.in_memory([item])
        state = graph.invoke({"item": item.id}, thread, context=context)
        while "__interrupt__" in state:
            asked = state["__interrupt__"][0].value
            state = graph.invoke(Command(resume=reply(asked)), thread, context=context)
        print(f"answer: {state['answer']}  right: {state['solved']}")
        if not state["solved"]:
            return []
        rows = distill.sft_dataset(context.traces.find(), student=None, items=[item], exclude=[])
        for row in rows:
            print(f"{row['prompt'][-1]['content']!r} -> {row['completion'][0]['content']!r}")
        return rows


if __name__ == "__main__":
    main()
