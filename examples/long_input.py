"""A question about a text that no agent reads as a whole: seekers read a part each and share what they find.

python examples/long_input.py
"""

import random

import docendo
from docendo import Engine, graphs
from docendo.records import Gold, Item, PublicItem

NAMES = ("Ann", "Bo", "Cem", "Dora", "Egon", "Faye", "Gil", "Hanna", "Ivo", "Jo", "Kaj", "Lena")
PLACES = (
    "Brix",
    "Corlay",
    "Dunmere",
    "Eskil",
    "Farrow",
    "Gantry",
    "Holm",
    "Ister",
    "Jarrow",
    "Kelso",
    "Lunde",
    "Tarn",
)


def text(people: int = 12, seed: int = 0) -> tuple[str, str, str]:
    """A text, a question of two hops whose facts are far apart, and its answer."""
    draw = random.Random(seed)
    names, places = draw.sample(NAMES, people), draw.sample(PLACES, people)
    bosses = {name: names[(place + 1) % people] for place, name in enumerate(names)}
    facts = [f"The boss of {name} is {boss}." for name, boss in bosses.items()]
    homes = [f"{name} lives in {place}." for name, place in zip(names, places, strict=True)]
    draw.shuffle(facts)
    draw.shuffle(homes)
    asked = names[0]
    answer = places[names.index(bosses[asked])]
    return " ".join([*facts, *homes]), f"Where does the boss of {asked} live?", answer


def main(model: str = "smollm2-135m-instruct", people: int = 12) -> None:
    document, question, answer = text(people)
    item = Item(
        public=PublicItem(id="boss", question=question, metadata={"document": document}), gold=Gold(answer)
    )
    with Engine.load(model) as engine:
        graph = graphs.long_input(graphs.Seeker(engine), graphs.Reasoner(engine), chunk=24, rounds=2)
        with docendo.run(graph, [item], name="long-input", quiet=True) as run:
            state = run.outcomes[item.id]
            print(f"{question} {answer}")
            for number, found in enumerate(state["found"], start=1):
                for post in map(run.board.get, found):
                    print(f"round {number}  part {post.body['chunk'] + 1}  {post.body['text']!r}")
            print(f"after {state['tries']} tries: {state['answer']}")


if __name__ == "__main__":
    main()
