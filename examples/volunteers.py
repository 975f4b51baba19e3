"""A main agent asks a board, and volunteers with notes of their own answer, here or in other processes.

python examples/volunteers.py                     # everything in this process
python examples/volunteers.py elsewhere           # waits for volunteers; meanwhile, in other terminals:
docendo work --board runs/volunteers --helper examples/volunteers.py:birds
docendo work --board runs/volunteers --helper examples/volunteers.py:distances
"""

import sys

import docendo
from docendo import Engine, graphs
from docendo.agents import Asker, NoteKeeper, volunteers
from docendo.records import Gold, Item, PublicItem

birds = NoteKeeper(
    "birds", ["How far birds fly: a tern 70,000 km a year.", "A wren weighs nine grams."], threshold=0.1
)


@volunteers(confidence=lambda request: 0.9 if "moon" in request.text else 0.0)
def distances(request):
    """Knows one distance."""
    return "The moon is 384,400 km away."


class Curious(Asker):
    """Asks the board its question before it says anything."""

    def first(self, item: PublicItem) -> tuple[str, ...]:
        """The question is the first request."""
        return (item.question,)


def main(model: str = "smollm2-135m-instruct", elsewhere: bool = False) -> None:
    question = "How many years does a tern take to fly as far as the moon?"
    item = Item(public=PublicItem(id="terns", question=question), gold=Gold("5.5"))
    with Engine.load(model) as engine:
        graph = graphs.blackboard(
            Curious(engine),
            [] if elsewhere else [birds, distances],
            max_rounds=3,
            deadline=60.0 if elsewhere else None,
        )
        with docendo.run(graph, [item], name="volunteers", quiet=True) as run:
            for post in run.board.posts(item=item.id):
                print(f"{post.kind:<10}{post.author.agent:<12}{post.body.get('text', post.body)}")


if __name__ == "__main__":
    main(elsewhere="elsewhere" in sys.argv[1:])
