"""A8: steps to a team's goal: no, full or structured communication, memory as text or as a graph.

Six things lie at twelve places; some can be taken only after others. Agents see the place where they are. One
policy, a reader trained from scratch, chooses where to go from what its memory says, in all arms.
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from _harness import Options
from _reader import Question, Reader, clipped, sampled
from _study import Study, difference

from docendo.hashing import derive_seed
from docendo.memory import Blackboard, GraphMemory, MessageBoard, StructuredMessage
from docendo.records import Author

SEEDS = (0, 1, 2)
PLACES = ("cave", "hill", "hut", "lake", "mill", "field", "wood", "shore", "tower", "swamp", "bridge", "farm")
THINGS = ("log", "stone", "iron", "coal", "gem", "rope")
WORDS = ("has", "is", "empty", "need", "at")
BUDGET = 15  # words of memory in the prompt, in every arm
LIMIT = 30
TEAMS = (1, 2, 4)
TALK = ("no communication", "full history", "structured")
KEPT = ("text", "graph")


class World:
    """Where things lie, what has to be taken before what, and what the team has."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(derive_seed("a8 world", seed))
        self.places = {thing: draw.choice(PLACES) for thing in THINGS}
        order = draw.sample(THINGS, len(THINGS))
        self.needs = {
            thing: tuple(draw.sample(order[:number], min(number, draw.choice((0, 1, 1, 2)))))
            for number, thing in enumerate(order)
        }
        self.done: set[str] = set()

    def visit(self, place: str) -> tuple[list[str], list[str]]:
        """Takes what can be taken; returns what still lies there and what has been taken from there."""
        for thing in self.needs:
            if self.places[thing] == place and self.done.issuperset(self.needs[thing]):
                self.done.add(thing)
        here = [thing for thing in self.needs if self.places[thing] == place]
        return [t for t in here if t not in self.done], [t for t in here if t in self.done]


@dataclass
class Agent:
    """One agent: where it is, what it knows, and its memory of places, as text lines or as a graph.

    `lines` holds all that it saw or heard, for every arm: as text memory it is read from its end; as history
    it is what is broadcast.
    """

    name: str
    place: str
    graph: GraphMemory | None
    done: set[str] = field(default_factory=set)
    lines: list[tuple[int, str, str]] = field(default_factory=list)  # time, place, what is there
    known: set[tuple[int, str, str]] = field(default_factory=set)
    spots: dict[str, str] = field(default_factory=dict)
    linked: set[tuple[str, str]] = field(default_factory=set)
    claims: dict[str, str] = field(default_factory=dict)

    def start(self, world: World) -> None:
        """Notes what the team is after, which everybody knows."""
        if self.graph is None:
            return
        self.graph.add("goal", "all things", at=0, id="team", status="need")
        for thing in world.needs:
            self.graph.add("goal", thing, at=0, id=thing, status="need")

    def note(self, time: int, place: str, there: str, source: str, parents: Sequence[str] = ()) -> None:
        """Takes in what is at a place: the names of things, or "empty"."""
        if (time, place, there) in self.known:
            return
        self.known.add((time, place, there))
        self.lines.append((time, place, there))
        self.lines.sort()
        if self.graph is not None:
            text = _said(place, there)
            fact = self.graph.add("fact", text, at=time, id=f"at/{place}", source=source, parents=parents)
            about = there.split() if there != "empty" else ["team"]
            for name in about:
                if (fact.id, name) not in self.linked:
                    self.linked.add((fact.id, name))
                    self.graph.link(fact.id, "about", name, at=time)

    def finished(self, thing: str, time: int) -> None:
        """Learns that a thing has been taken."""
        if thing not in self.done:
            self.done.add(thing)
            if self.graph is not None:
                self.graph.set_status(thing, "done", at=time)

    def aim(self, world: World) -> str:
        """The next thing, as far as the agent knows: one that nobody else is after, if there is one."""
        open_ = [t for t, needs in world.needs.items() if t not in self.done and self.done.issuperset(needs)]
        free = [thing for thing in open_ if thing not in self.claims.values()]
        return (free or open_)[0]

    def recalled(self, aim: str) -> str:
        """What the memory gives for a thing, within the budget: the newest first."""
        if self.graph is None:
            return clipped([_said(place, there) for _, place, there in reversed(self.lines)], BUDGET)
        around = [node for name in (aim, "team") for node in self.graph.subgraph(name, hops=1).nodes]
        near = [node.text for node in around if node.type == "fact"]
        return clipped(list(dict.fromkeys(near)), BUDGET)


def measure(options: Options) -> Study:
    """Trains a policy per seed on other worlds and all arms, and lets it play each arm in the same worlds."""
    worlds, taught, steps = options.size(15, 3), options.size(6, 1), options.size(500, 20)
    questions = [one for number in range(taught) for one in _lessons(derive_seed("a8 lesson", number))]
    readers = [Reader([PLACES, THINGS], WORDS, seed=derive_seed("a8", seed) % (1 << 31)) for seed in SEEDS]
    losses = [reader.train(questions, steps=steps) for reader in readers]
    found: dict[tuple[int, str, str], list[_Played]] = {}
    for number in range(worlds):
        for team, talk, kept in _arms():
            reader = readers[number % len(SEEDS)]
            found.setdefault((team, talk, kept), []).append(_play(number, team, talk, kept, reader=reader))
    arms = {
        f"{team} agents, {talk}, {kept}" if team > 1 else f"1 agent, {kept}": {
            "steps": statistics.fmean(one.steps for one in played),
            "reached": statistics.fmean(one.reached for one in played),
            "words sent": statistics.fmean(one.sent for one in played),
            "places visited twice": statistics.fmean(one.twice for one in played),
        }
        for (team, talk, kept), played in found.items()
    }

    def steps_of(team: int, talk: str, kept: str) -> list[float]:
        return [float(one.steps) for one in found[team, talk, kept]]

    findings = []
    for kept in KEPT:
        for team in TEAMS[1:]:
            plain = steps_of(team, TALK[0], kept)
            full, structured = (steps_of(team, talk, kept) for talk in TALK[1:])
            findings += [
                difference(
                    f"steps saved, structured over none, {team} agents, {kept}", of=plain, over=structured
                ),
                difference(
                    f"steps saved, structured over full history, {team} agents, {kept}",
                    of=full,
                    over=structured,
                ),
            ]
    for team in TEAMS:
        talk = TALK[2] if team > 1 else TALK[0]
        label = f"{team} agents, structured" if team > 1 else "1 agent"
        findings.append(
            difference(
                f"steps saved, graph over text, {label}",
                of=steps_of(team, talk, "text"),
                over=steps_of(team, talk, "graph"),
            )
        )
    findings += [
        difference(
            "words saved, structured over full history, 4 agents, graph",
            of=[float(one.sent) for one in found[4, TALK[1], "graph"]],
            over=[float(one.sent) for one in found[4, TALK[2], "graph"]],
        ),
        difference(
            "steps saved, structured with places at random over structured, 4 agents, graph",
            of=steps_of(4, TALK[2], "graph"),
            over=[
                float(_play(n, 4, "places at random", "graph", reader=readers[n % len(SEEDS)]).steps)
                for n in range(worlds)
            ],
            control="loss",
        ),
    ]
    return Study(
        name="A8",
        setting=(
            f"{worlds} worlds of {len(PLACES)} places and {len(THINGS)} things with prerequisites, at most "
            f"{LIMIT} steps, {BUDGET} words of memory in every prompt. {len(SEEDS)} policies trained on "
            f"{taught} other worlds and on all arms alike, each plays a third of the worlds, by sampling."
        ),
        arms=arms,
        findings=findings,
        notes=[
            "A world is one pair. Which thing an agent is after follows from what it knows by one rule in "
            "all arms; where to look for it is the policy's choice.",
            "Full history sends every line to every other agent at every step, as a transcript would.",
        ],
        detail={"training of the policies": losses},
    )


@dataclass
class _Played:
    steps: int
    reached: bool
    sent: int
    twice: int


def _arms() -> list[tuple[int, str, str]]:
    return [
        (team, talk, kept) for team in TEAMS for talk in (TALK if team > 1 else TALK[:1]) for kept in KEPT
    ]


def _said(place: str, there: str) -> str:
    return f"{place} is empty" if there == "empty" else f"{place} has {there}"


def _question(agent: Agent, world: World) -> Question:
    aim = agent.aim(world)
    text = f"{agent.recalled(aim)} need {aim} at {agent.place}".strip()
    return Question(text=text, asked=aim, options=PLACES, right=world.places[aim])


def _lessons(seed: int) -> list[Question]:
    """What agents that walk at random see in each arm, with the place of what they look for."""
    asked: list[Question] = []
    for team, talk, kept in _arms():
        _play(seed, team, talk, kept, asked=asked, limit=10)
    return asked


def _play(
    seed: int,
    team: int,
    talk: str,
    kept: str,
    *,
    reader: Reader | None = None,
    asked: list[Question] | None = None,
    limit: int = LIMIT,
) -> _Played:
    """One episode; without a reader the agents walk at random, and what they would be asked is kept."""
    world, draw = World(seed), random.Random(derive_seed("a8 play", seed, team, talk, kept))
    board = Blackboard.open(":memory:")
    said = MessageBoard(board, channel="messages")
    authors = [Author(agent=f"agent{number}", role="student") for number in range(team)]
    agents = [
        Agent(
            name=author.agent,
            place=draw.choice(PLACES),
            graph=GraphMemory(board, owner=author) if kept == "graph" else None,
        )
        for author in authors
    ]
    for agent in agents:
        agent.start(world)
    visited: dict[str, int] = {}
    sent = heard = 0
    for time in range(1, limit + 1):
        for agent in agents:
            left, taken = world.visit(agent.place)
            visited[agent.place] = visited.get(agent.place, 0) + 1
            agent.note(time, agent.place, " ".join(left) or "empty", agent.name)
            for thing in taken:
                agent.finished(thing, time)
        if len(world.done) == len(THINGS):
            break
        if talk == "full history":
            sent += _broadcast(agents, time)
        elif talk != "no communication":
            words, heard = _tell(
                said, agents, authors, world, time, heard, wrong=talk != "structured", draw=draw
            )
            sent += words * (team - 1)
        questions = [_question(agent, world) for agent in agents if len(agent.done) < len(THINGS)]
        if asked is not None:
            asked += questions
        if reader is None:
            chosen = [draw.choice(PLACES) for _ in questions]
        else:
            chosen = [PLACES[sampled(row, draw)] for row in reader.probabilities(questions)]
        for agent, place in zip(agents, chosen, strict=True):
            agent.place = place
    board.close()
    return _Played(
        steps=time,
        reached=len(world.done) == len(THINGS),
        sent=sent,
        twice=sum(count - 1 for count in visited.values()),
    )


def _broadcast(agents: Sequence[Agent], time: int) -> int:
    """Everybody sends all that it saw or heard to everybody; returns the words sent."""
    sent = 0
    histories = [(agent, list(agent.lines), set(agent.done)) for agent in agents]
    for sender, lines, done in histories:
        for other in agents:
            if other is sender:
                continue
            sent += sum(len(_said(place, there).split()) for _, place, there in lines) + len(done)
            for when, place, there in lines:
                other.note(when, place, there, sender.name)
            for thing in done:
                other.finished(thing, time)
    return sent


def _tell(
    said: MessageBoard,
    agents: Sequence[Agent],
    authors: Sequence[Author],
    world: World,
    time: int,
    heard: int,
    *,
    wrong: bool,
    draw: random.Random,
) -> tuple[int, int]:
    """Everybody says what has changed; returns the words of it and the last message's place on the board.

    `wrong` messages name places at random; what the team has taken and is after stays true.
    """
    sent = 0
    for agent, author in zip(agents, authors, strict=True):
        lying = [there for when, place, there in agent.lines if (when, place) == (time, agent.place)]
        here = [thing for there in lying for thing in there.split() if there != "empty"]
        place = draw.choice(PLACES) if wrong else agent.place
        message = StructuredMessage(
            sender=agent.name,
            at=time,
            task=agent.aim(world) if len(agent.done) < len(THINGS) else "",
            has=dict.fromkeys(sorted(agent.done), 1),
            location=place,
            found=dict.fromkeys(here, place),
        )
        post = said.say(message, author=author)
        sent += len(post.body["text"].split()) if post else 0
    posts = said.heard("", after=heard)
    for post in posts:
        news = StructuredMessage.from_json(post.body)
        for agent in agents:
            if agent.name == news.sender:
                continue
            agent.spots.update(news.found)
            for thing in news.has:
                agent.finished(thing, time)
            if news.location:
                # A place of which nothing is said holds what was last said of it.
                there = [t for t, at in agent.spots.items() if at == news.location and t not in agent.done]
                agent.note(time, news.location, " ".join(there) or "empty", news.sender, (post.id,))
            if news.task:
                agent.claims[news.sender] = news.task
    return sent, posts[-1].seq if posts else heard
