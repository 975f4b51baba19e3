"""The arrows of expert iteration: ask the newest student, verify, build, train, measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docendo.agents import Verifier
from docendo.distill.adapters._adapter import Adapter
from docendo.distill.datasets._manifest import load_dataset, save_dataset
from docendo.distill.datasets._sft import sft_dataset
from docendo.distill.rounds._round import Round
from docendo.distill.rounds._rounds import Rounds
from docendo.distill.rounds._scheduler import Feedback, Scheduler
from docendo.distill.training._config import TrainConfig
from docendo.errors import ConfigError, DataError
from docendo.evals import Task, evaluate
from docendo.graphs import demonstrate, run
from docendo.hashing import digest
from docendo.memory import Journal, TraceStore
from docendo.records import Item, Trace

if TYPE_CHECKING:
    from datasets import Dataset

    from docendo.agents import Agent, EngineProtocol


def require_parts(tasks: Task) -> None:
    """Refuses a task that rounds cannot be run on.

    Raises:
        DataError: if it has no training or no development items.
    """
    for name, items in (("training", tasks.train), ("development", tasks.dev)):
        if not items:
            raise DataError(f"the task has no {name} items", remedy="make it with tasks(train=200, dev=100)")


def base_model(engine: EngineProtocol, model: str | Path | None) -> str | Path:
    """The model to train.

    Raises:
        ConfigError: if it is not at hand, as on a server.
    """
    found: str | Path | None = model or getattr(engine, "model_path", None)
    if found is None:
        raise ConfigError(
            f"the weights of {engine.name!r} are not at hand", expected="model=, the base model to train"
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertArrows:
    """The five arrows over the arguments of `expert_iteration`; `fresh` is the scheduler before it learnt."""

    student: Agent
    tasks: Task
    folder: Path
    samples: int
    temperature: float
    max_per_item: int
    accumulate: bool
    scheduler: Scheduler | None
    fresh: dict[str, Any] | None
    graph: Callable[[Agent, Round], Any] | None
    config: TrainConfig
    model: str | Path

    def identity(self) -> dict[str, Any]:
        """What the results depend on."""
        return {
            "method": "expert iteration",
            "student": self.student.describe(),
            "task": self.tasks.fingerprint,
            "samples": self.samples,
            "temperature": self.temperature,
            "max_per_item": self.max_per_item,
            "accumulate": self.accumulate,
            "scheduler": self.fresh,
            # What it is made of is in the configuration of each exam's run.
            "graph": getattr(self.graph, "__name__", "own") if self.graph is not None else None,
            "training": self.config.identity(),
        }

    def loop(self) -> Rounds:
        """The rounds of these arrows."""
        return Rounds(self.exam, self.feedback, self.build, self.fit, self.evaluate, config=self.identity())

    def exam(self, round: Round) -> Mapping[str, Any]:
        """The newest student, or a graph with it, answers the items that are due; answers are verified."""
        learner, due = self._learner(round), self._due(round)
        weights = learner.engine.adapter_hash(learner.adapter)
        # Named by who is asked what: where an earlier step came out otherwise it is another run.
        asked = digest(weights, [item.id for item in due])[:8]
        name = f"{self.folder.name}-round-{round.number}-{asked}"
        with run(
            self._graph(learner, round),
            due,
            name=name,
            folder=round.folder,
            seed=round.seed,
            resume=True,
            database=round.database,
            quiet=round.quiet,
        ) as done:
            summary, usage = done.summary(), done.usage()
        tokens = sum(used["prompt_tokens"] + used["generated_tokens"] for used in usage.values())
        return {
            "run": name,
            "items": summary["items"],
            "failed": summary["failed"],
            "solved": summary["solved"],
            "tokens": tokens,
        }

    def feedback(self, round: Round) -> Mapping[str, Any]:
        """How the samples fared, and what the curriculum made of it."""
        traces = [
            trace
            for trace in TraceStore(round.database).find(run=round.results["exam"]["run"])
            if "verified" in trace.rewards and trace.author.role == self.student.role
        ]
        traces.sort(key=lambda trace: (trace.item, trace.sample))
        found = Feedback(
            items=tuple(trace.item for trace in traces),
            rewards=tuple(trace.rewards["verified"] for trace in traces),
            lengths=tuple(len(trace.token_ids) for trace in traces),
            version=round.number - 1,
        )
        learnable = {item for item, size in zip(found.items, found.sizes, strict=True) if size > 0}
        result: dict[str, Any] = {
            "samples": len(traces),
            "right": sum(found.rewards),
            "learnable": len(learnable),
        }
        if self.scheduler is not None:
            self._restore(round)
            self.scheduler.observe(found)
            result["scheduler"] = self.scheduler.state_dict()
        return result

    def build(self, round: Round) -> Mapping[str, Any]:
        """What was said in the exams becomes rows."""
        exams = [results["exam"]["run"] for results in round.history if "exam" in results]
        runs = [*(exams if self.accumulate else ()), round.results["exam"]["run"]]
        store = TraceStore(round.database)
        # The newest first: of each item they are preferred.
        said = [trace for name in reversed(runs) for trace in store.find(run=name)]
        manifest = save_dataset(self._rows(said, round), round.folder / "data")
        return {"rows": manifest.rows, "digest": manifest.digest}

    def _rows(self, said: Sequence[Trace], round: Round) -> Dataset:
        """Verified answers under the student's own prompt."""
        return sft_dataset(
            said,
            student=self.student,
            items=self.tasks.train,
            exclude=[*self.tasks.dev, *self.tasks.test],
            max_per_item=self.max_per_item,
            database=round.database,
            quiet=True,
        )

    def fit(self, round: Round) -> Mapping[str, Any]:
        """An adapter on the base model."""
        from docendo.distill.training._train import train

        with self.student.engine.paused():
            adapter = train(
                self.model,
                load_dataset(round.folder / "data").to_list(),
                output=round.folder / "adapter",
                name=f"{self.folder.name}-round-{round.number}",
                # Within the range of torch's and numpy's seeds.
                config=self.config.replace(seed=round.seed % 2**32),
                resume=True,
                database=round.database,
                quiet=round.quiet,
                **self._training(round),
            )
        return {
            "adapter": adapter.path.relative_to(self.folder).as_posix(),
            "sha256": adapter.sha256,
            "examples": adapter.manifest["data"]["examples"],
        }

    def _training(self, round: Round) -> Mapping[str, Any]:
        """Further arguments of `train`; without any it begins a fresh adapter."""
        return {}

    def evaluate(self, round: Round) -> Mapping[str, Any]:
        """Accuracy on the development items."""
        result = evaluate(
            self._learner(round),
            self.tasks.dev,
            scorer=self.tasks.scorer,
            name=f"round {round.number}",
            journal=Journal(round.database),
            quiet=round.quiet,
        )
        result.save(round.folder / "evaluation")
        return {
            "correct": result.correct,
            "n": result.n,
            "failed": result.failed,
            "adapter": result.adapter,
            "tokens": result.usage.prompt_tokens + result.usage.generated_tokens,
        }

    def _learner(self, round: Round) -> Agent:
        """The newest student; its adapter is loaded unless it is served already."""
        newest = round.latest("fit")
        if newest is None:
            return self.student
        engine, name = self.student.engine, f"{self.student.name}-learning"
        if engine.adapters().get(name) != newest["sha256"]:
            path = self.folder / newest["adapter"]
            Adapter.open(path)  # whole, and as it was published
            engine.load_adapter(name, path)
        return self.student.with_adapter(name)

    def _graph(self, learner: Agent, round: Round) -> Any:
        if self.graph is not None:
            return self.graph(learner, round)
        return demonstrate(
            teacher=learner.with_sampling(n=self.samples, temperature=self.temperature, seed=None),
            verifier=Verifier(self.tasks.scorer),
            keep=self.max_per_item,
        )

    def _due(self, round: Round) -> list[Item]:
        if self.scheduler is None:
            return list(self.tasks.train)
        self._restore(round)
        items = {item.id: item for item in self.tasks.train}
        due = self.scheduler.plan(round.number - 1).items
        unknown = [item for item in due if item not in items]
        if unknown or not due:
            raise DataError(
                f"the scheduler plans {unknown[0] if unknown else 'nothing'} in round {round.number}",
                expected="training items of the task",
            )
        return [items[item] for item in due]

    def _restore(self, round: Round) -> None:
        """What the scheduler knew at the end of the round before."""
        if self.scheduler is not None:
            before = replace(round, results={}).latest("feedback")
            self.scheduler.load_state_dict(before["scheduler"] if before else self.fresh or {})
