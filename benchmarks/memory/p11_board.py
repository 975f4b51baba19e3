"""P11: append, read by key and full-text search on a board of 1,000,000 posts; reference: one of 10,000.

Words are drawn by Zipf's law, so that a board has words of every frequency: a rare one is in a hundred
times as many posts of the large board, so that its search has more to compare there. One word is in as many
posts of either board, evenly spread. Each figure is the median of 100 operations; the boards take turns.
"""

import random
import statistics
import string
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _harness import Bar, Options, Part

from docendo.memory import Blackboard
from docendo.records import Author

AUTHOR = Author(agent="student", role="student", model="m" * 64)
VOCABULARY = 20_000
WORDS = tuple(
    "".join(random.Random(number).choices(string.ascii_lowercase, k=2 + number % 8)) + str(number % 7)
    for number in range(VOCABULARY)
)
OPERATIONS = 100
#: A word that no other text has, and in how many posts of a board it is.
NEEDLE, NEEDLES = "needle", 20
_AT_ONCE = 2000


def word(chance: random.Random) -> str:
    """A word: the n-th of the vocabulary is n times rarer than the first."""
    return WORDS[min(int(VOCABULARY ** chance.random()), VOCABULARY - 1)]


def rare(chance: random.Random) -> str:
    """A word from the long tail."""
    return WORDS[chance.randrange(VOCABULARY // 10, VOCABULARY)]


def hidden(number: int, count: int) -> str:
    """The needle, for the posts of a board that have it."""
    return f" {NEEDLE}" if number % (count // NEEDLES) == 0 else ""


def filled(path: Path, count: int) -> Blackboard:
    """A board of so many posts of twenty words, indexed."""
    board, chance = Blackboard.open(path), random.Random(count)
    for start in range(0, count, _AT_ONCE):
        with board.database.transaction():
            for number in range(start, min(start + _AT_ONCE, count)):
                board.post(
                    "claim",
                    {"text": " ".join(word(chance) for _ in range(20)) + hidden(number, count)},
                    author=AUTHOR,
                    key=f"key-{number}",
                    run=f"run-{number // 5000}",
                    item=f"item-{number % 5000}",
                )
        board.search(WORDS[0])
    return board


def operations(board: Blackboard, count: int, number: int) -> dict[str, Callable[[int], object]]:
    """What is timed; `number` tells the rounds apart."""
    chance = random.Random(f"{count} {number}")
    keys = board.keys
    return {
        "append": lambda n: board.post(
            "claim",
            {"text": " ".join(word(chance) for _ in range(20))},
            author=AUTHOR,
            key=f"more-{number}-{n}",
            run="more",
            item=f"item-{n}",
        ),
        "read by key": lambda n: board.find(f"key-{chance.randrange(count)}"),
        "versioned key, write and read": lambda n: (
            keys.write(f"name-{number}-{n}", n, author=AUTHOR),
            keys.read(f"name-{number}-{n}"),
        ),
        "search for a word of 20 posts": lambda n: board.search(NEEDLE),
        "search for a rare word": lambda n: board.search(rare(chance)),
        "search for a common word": lambda n: board.search(WORDS[1 + n % 5]),
        "search for three words": lambda n: board.search(f"{rare(chance)} {word(chance)} {word(chance)}"),
    }


def milliseconds(board: Blackboard, count: int, number: int) -> dict[str, float]:
    """The median of each operation."""
    found = {}
    for name, work in operations(board, count, number).items():
        spent = []
        for n in range(OPERATIONS):
            if name.startswith("search"):
                board.search(WORDS[0], limit=1)  # what was appended is indexed outside the clock
            began = time.perf_counter()
            work(n)
            spent.append(1e3 * (time.perf_counter() - began))
        found[name] = statistics.median(spent)
    return found


def measure(options: Options) -> Bar:
    """Both boards, then rounds that alternate between them."""
    sizes = {"small": options.size(10_000, 500), "large": options.size(1_000_000, 5_000)}
    with tempfile.TemporaryDirectory() as scratch:
        boards, building = {}, {}
        for name, count in sizes.items():
            began = time.perf_counter()
            boards[name] = filled(Path(scratch) / f"{name}.db", count)
            building[name] = round(time.perf_counter() - began, 1)
        bytes_a_post = {
            name: round((Path(scratch) / f"{name}.db").stat().st_size / count)
            for name, count in sizes.items()
        }
        rounds: dict[str, list[dict[str, float]]] = {"small": [], "large": []}
        for number in range(-1, options.rounds()):
            for name in sizes if number % 2 else reversed(sizes):
                taken = milliseconds(boards[name], sizes[name], number)
                if number >= 0:
                    rounds[name].append(taken)
        for board in boards.values():
            board.close()
    parts = [
        Part(
            name=f"{operation}: time over that on the small board",
            target=2.0,
            at_most=True,
            ratios=[
                large[operation] / small[operation] for small, large in zip(*rounds.values(), strict=True)
            ],
        )
        for operation in rounds["small"][0]
    ]
    medians = {
        name: {
            operation: round(statistics.median(one[operation] for one in taken), 3) for operation in taken[0]
        }
        for name, taken in rounds.items()
    }
    detail = {
        "posts": sizes,
        "milliseconds": medians,
        "building_seconds": building,
        "bytes_a_post": bytes_a_post,
    }
    return Bar(name="P11", parts=parts, detail=detail)
