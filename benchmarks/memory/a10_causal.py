"""A10: causal memory over trials: worlds whose rules are hidden, one frozen policy, five kinds of memory.

Each of six devices opens only with an item that the agent has to find out. In a trial the layout offers six
of eight items at each device, and the agent takes two: what worked or failed is ambiguous. After five
trials in one layout comes one in a new layout of the same rules.
"""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from _harness import Options
from _reader import Question, Reader, clipped, sampled
from _study import Study, difference

from docendo.hashing import derive_seed
from docendo.memory import Blackboard, Budget, CausalMemory, TrialStep
from docendo.records import Author

SEEDS = (0, 1, 2)
ITEMS = ("key", "rope", "lamp", "axe", "coin", "map", "rod", "bell")
DEVICES = ("door", "chest", "bridge", "well", "gate", "mine")
WORDS = (
    *("should", "may", "be", "necessary", "to", "does", "not", "contribute", "open"),
    *("worked", "failed", "avoid", "use", "at", "holding", "nothing"),
)
TRIALS = 5
BUDGET = 36  # words of memory, in every arm
ME = Author(agent="agent", role="student")


@dataclass
class World:
    """Hidden rules, and what an agent has been through in it.

    Attributes:
        seed: Of rules and layouts.
        memory: The causal memory of this agent in this world.
        trials: For each trial what was tried: device, items, whether it opened.
    """

    seed: int
    memory: CausalMemory
    trials: list[list[tuple[str, tuple[str, ...], bool]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        draw = random.Random(derive_seed("a10 rules", self.seed))
        self.rule = {device: draw.choice(ITEMS) for device in DEVICES}

    def layout(self, name: str) -> dict[str, tuple[str, ...]]:
        """What lies at each device: the right item among others, in random order."""
        draw = random.Random(derive_seed("a10 layout", self.seed, name))
        offered = {}
        for device in draw.sample(DEVICES, len(DEVICES)):
            others = [item for item in ITEMS if item != self.rule[device]]
            lying = [self.rule[device], *draw.sample(others, 5)]
            offered[device] = tuple(draw.sample(lying, len(lying)))
        return offered

    def finish(self, tried: list[tuple[str, tuple[str, ...], bool]], *, remember: bool) -> float:
        """Ends a trial: keeps it, and returns the share of devices that opened."""
        score = statistics.fmean(opened for _, _, opened in tried)
        self.trials.append(tried)
        if remember:
            steps = [TrialStep(action=f"open {d}", success=won, conditions=items) for d, items, won in tried]
            self.memory.update(steps, reward=100 * score, author=ME, key=str(len(self.trials)))
        return score


def world(seed: int) -> World:
    """A world with an empty memory on a board of its own."""
    return World(seed=seed, memory=CausalMemory(Blackboard.open(":memory:"), channel="causal"))


def nothing(world: World, device: str) -> str:
    """No memory."""
    return ""


def last_trace(world: World, device: str) -> str:
    """The last trial as it was."""
    return clipped([_line(*one) for one in world.trials[-1]] if world.trials else [], BUDGET)


def raw_lines(world: World, device: str) -> str:
    """Lines of all trials: those of this device first, the newest first."""
    lines = [one for trial in reversed(world.trials) for one in trial]
    return clipped([_line(*one) for one in sorted(lines, key=lambda one: one[0] != device)], BUDGET)


def hints(world: World, device: str) -> str:
    """Advice after each of the last three trials, a third of the words each."""
    said = []
    for number, trial in list(enumerate(world.trials))[-3:]:
        draw = random.Random(derive_seed("a10 hint", world.seed, number))
        lines = [f"{'use' if won else 'avoid'} {' '.join(items)} at {d}" for d, items, won in trial]
        said.append(clipped(draw.sample(lines, len(lines)), BUDGET // 3))
    return " ".join(said)


def causal(world: World, device: str) -> str:
    """Causal statements, as the memory returns them for the question."""
    budget = Budget(tokens=BUDGET, counter=lambda text: len(text.split()))
    return " ".join(entry.text for entry in world.memory.read(f"open {device}", budget))


Memory = Callable[[World, str], str]
ARMS: Mapping[str, Memory] = {
    "no memory": nothing,
    "last trace": last_trace,
    "hints": hints,
    "lines of all traces": raw_lines,
    "causal": causal,
}
OTHER = "causal, of another world"


def measure(options: Options) -> Study:
    """Trains a policy per seed on other worlds with all kinds of memory, then lets it play."""
    worlds, taught = options.size(20, 4), options.size(30, 4)
    steps = options.size(600, 30)
    questions = [one for n in range(taught) for one in _lessons(derive_seed("a10 lesson", n))]
    scores: dict[str, list[list[list[float]]]] = {}
    losses = []
    for seed in SEEDS:
        reader = Reader([ITEMS, DEVICES], WORDS, seed=derive_seed("a10", seed) % (1 << 31))
        losses.append(reader.train(questions, steps=steps))
        for arm in (*ARMS, OTHER):
            scores.setdefault(arm, []).append(_play(reader, arm, worlds, seed))
    mean = {
        arm: [
            [statistics.fmean(column) for column in zip(*rows, strict=True)]
            for rows in zip(*runs, strict=True)
        ]
        for arm, runs in scores.items()
    }
    learnt = {arm: [statistics.fmean(row[1:TRIALS]) for row in rows] for arm, rows in mean.items()}
    moved = {arm: [row[TRIALS] for row in rows] for arm, rows in mean.items()}
    arms: dict[str, dict[str, float | str]] = {
        arm: {
            **{f"trial {n + 1}": statistics.fmean(row[n] for row in rows) for n in range(TRIALS)},
            "new layout": statistics.fmean(moved[arm]),
        }
        for arm, rows in mean.items()
    }
    findings = []
    for other in ("no memory", "last trace", "hints", "lines of all traces"):
        findings += [
            difference(f"{what}, causal over {other}", of=values["causal"], over=values[other])
            for what, values in (("trials 2 to 5", learnt), ("new layout", moved))
        ]
    findings.append(
        difference(
            "new layout, causal of another world over the world's own",
            of=moved[OTHER],
            over=moved["causal"],
            control="loss",
        )
    )
    findings.append(
        difference(
            "new layout, causal of another world over no memory", of=moved[OTHER], over=moved["no memory"]
        )
    )
    return Study(
        name="A10",
        setting=(
            f"{worlds} worlds of {len(DEVICES)} devices and {len(ITEMS)} items, {TRIALS} trials and one in a "
            f"new layout; score: share of devices opened, chance 1/3. The policy, trained {len(SEEDS)} times "
            f"on {taught} other worlds with all kinds of memory alike and then frozen, chooses by sampling. "
            f"{BUDGET} words of memory in every arm. Causal statements are counted, not written by a model."
        ),
        arms=arms,
        findings=findings,
        notes=[
            "A world is one pair, averaged over the policies. Hints are written by a rule: for each of the "
            "last three trials as many pieces of advice as fit, chosen at random.",
            "The last trace always fits the budget; lines of all traces are looked up by device.",
        ],
        detail={"training of the policies": losses},
    )


def _line(device: str, items: Sequence[str], opened: bool) -> str:
    return f"{device} {' '.join(items)} {'worked' if opened else 'failed'}"


def _asked(text: str, device: str, offered: Sequence[str], hand: Sequence[str], right: str = "") -> Question:
    state = f"{device} holding {' '.join(hand) or 'nothing'}"
    left = [item for item in offered if item not in hand]
    return Question(text=f"{text} {state}".strip(), asked=device, options=tuple(left), right=right)


def _lessons(seed: int) -> list[Question]:
    """What a policy is trained on: a random agent in another world, seen through every kind of memory."""
    here, draw = world(seed), random.Random(seed)
    found = []
    for number in range(TRIALS + 1):
        tried = []
        for device, offered in here.layout(f"lesson {number // 2}").items():
            hand = tuple(draw.sample(offered, 2))
            right = here.rule[device]
            for memory in ARMS.values():
                text = memory(here, device)
                found.append(_asked(text, device, offered, (), right))
            tried.append((device, hand, right in hand))
        here.finish(tried, remember=True)
    here.memory.board.close()
    return found


def _play(reader: Reader, arm: str, worlds: int, seed: int) -> list[list[float]]:
    """The scores of each world, trial by trial, the last one in a new layout."""
    played = [world(derive_seed("a10 world", number)) for number in range(worlds)]
    draw = random.Random(derive_seed("a10 play", seed, arm))
    scores: list[list[float]] = [[] for _ in played]
    for number in range(TRIALS + 1):
        layouts = [one.layout("new" if number == TRIALS else "first") for one in played]
        asked = []
        for index, (one, layout) in enumerate(zip(played, layouts, strict=True)):
            source = played[(index + 1) % worlds] if arm == OTHER else one
            memory = ARMS.get(arm, causal)
            asked += [(index, device, layout[device], memory(source, device)) for device in layout]
        first = _choices(reader, [_asked(text, d, lying, ()) for _, d, lying, text in asked], draw)
        pairs = zip(asked, first, strict=True)
        second = _choices(reader, [_asked(text, d, lying, (a,)) for (_, d, lying, text), a in pairs], draw)
        tried: list[list[tuple[str, tuple[str, ...], bool]]] = [[] for _ in played]
        for (index, device, _, _), a, b in zip(asked, first, second, strict=True):
            tried[index].append((device, (a, b), played[index].rule[device] in (a, b)))
        for index, one in enumerate(played):
            scores[index].append(one.finish(tried[index], remember=arm in ("causal", OTHER)))
    for one in played:
        one.memory.board.close()
    return scores


def _choices(reader: Reader, questions: Sequence[Question], draw: random.Random) -> list[str]:
    shares = reader.probabilities(questions)
    return [one.options[sampled(row, draw)] for one, row in zip(questions, shares, strict=True)]
