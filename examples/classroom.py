"""A lesson: a teacher, two classmates and a controller that gives the floor; with "join" you have it, too.

python examples/classroom.py
python examples/classroom.py join
"""

import sys
from collections.abc import Callable

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from docendo import Engine, RunContext, evals, graphs

PAGES = (
    "A fraction tells how many equal parts of a whole are meant: 3/4 are three of four parts.",
    "Fractions are added when their parts are equally large: 1/4 + 2/4 = 3/4.",
)


def main(model: str = "smollm2-135m-instruct", reply: Callable[[str], str] | None = None) -> list[str]:
    """Holds the lesson and returns what the controller chose."""
    item = evals.make_item("A lesson on fractions.", None)
    with Engine.load(model) as engine:
        graph = graphs.classroom(
            graphs.Speaker(engine, name="teacher", role="teacher", system="You teach in short sentences."),
            [
                graphs.Speaker(engine, name="Ines", role="note taker", system="You repeat what matters."),
                graphs.Speaker(engine, name="Tam", role="asker", system="You ask one short question."),
            ],
            controller=graphs.ModelController(engine),
            human=graphs.Human(name="you", role="student") if reply else None,
            agenda=PAGES,
            turns=8,
            checkpointer=InMemorySaver(),
        )
        thread, context = {"configurable": {"thread_id": "lesson"}}, RunContext.in_memory([item])
        state = graph.invoke({"item": item.id}, thread, context=context)
        while reply and "__interrupt__" in state:  # you have the floor
            said = state["__interrupt__"][0].value["said"]
            state = graph.invoke(Command(resume=reply(said)), thread, context=context)
        for post in context.board.posts(kind="message"):
            print(f"page {post.body['page'] + 1}  {post.author.agent:<8} {post.body['text']}")
        print(f"The lesson ended: {state['answer']}.")
        return list(state["choices"])


if __name__ == "__main__":
    main(reply=(lambda said: input(f"{said}\nyou: ")) if "join" in sys.argv[1:] else None)
