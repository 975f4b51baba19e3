"""What a training method is: how rows become a trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from docendo.distill.adapters._adapter import Adapter
from docendo.distill.training._arguments import arguments, processes
from docendo.distill.training._config import TrainConfig
from docendo.distill.training._durable import DurableTrainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """What a method builds its trainer from.

    Attributes:
        rows: The rows to learn from.
        config: Settings.
        model: The `PeftModel`, its adapter called "default".
        tokenizer: The base model's tokenizer.
        source: Folder of the base model.
        scratch: Folder for what the trainer writes.
        parent: The adapter that is continued, or None.
    """

    rows: Sequence[Mapping[str, Any]]
    config: TrainConfig
    model: Any
    tokenizer: Any
    source: Path
    scratch: Path
    parent: Adapter | None

    def arguments(self, examples: int) -> dict[str, Any]:
        """Keyword arguments of `transformers.TrainingArguments` (or a subclass) for that many examples."""
        return arguments(self.config, self.config.total_steps(examples, processes()), str(self.scratch))


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A trainer that is ready to run, and what it will learn from.

    Attributes:
        trainer: The trainer, over `Materials.arguments`. Another library's has `DurableTrainer` mixed in.
        probe: Returns logits of a few examples; they must differ after training.
        data: Counts for the manifest: `examples`, `too_long`, `tokens`, `completion_tokens`.
        facts: Further numbers for the adapter's metrics.
        watched: Names of logged values whose last ones are further metrics.
        models: Models that it loaded beside the student, such as a live teacher; emptied in the end.
        close: Frees what the method opened (an engine), whatever happens.
    """

    trainer: DurableTrainer
    probe: Callable[[], Any]
    data: Mapping[str, int]
    facts: Mapping[str, float] = field(default_factory=dict)
    watched: Sequence[str] = ()
    models: Sequence[Any] = ()
    close: Callable[[], None] = lambda: None


class Method(Protocol):
    """How rows become a trainer: supervised training, preferences, rewards."""

    def identity(self) -> Mapping[str, Any]:
        """What makes two trainings by this method the same, as JSON values; `name` among them."""
        ...

    def build(self, materials: Materials) -> Build:
        """Makes the trainer."""
        ...
