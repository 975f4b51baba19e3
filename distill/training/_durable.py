"""A mix-in for `transformers.Trainer`: a training that is killed goes on to the same weights, bit for bit.

Everything random is a function of the seed and of where the training is: the order of the data of the
epoch, what the data pipeline draws of epoch and batch, dropout of the step. So no generator has to be
stored, and there is none that a resumed training could restore too early or too late.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, set_seed
from transformers.trainer_callback import ExportableState, TrainerState
from transformers.trainer_utils import TrainOutput

from docendo.distill.training._checkpoints import Checkpoint, Checkpoints, read_state, write_state
from docendo.errors import InfrastructureError, ResumeError
from docendo.files import write_json
from docendo.hashing import derive_seed

_WEIGHTS, _STATE = "weights", "state"
#: The name that `Trainer.train` reads.
_TRAINER = "trainer_state.json"
MEMORY = "peak_memory_gb"

_COST = 0.01
"""Share of the time that saving by the clock may take."""


class DurableTrainer(Trainer):
    """A `transformers.Trainer` whose checkpoints are atomic, verified and free of pickle.

    Put it before the trainer it is mixed into: `class DurableDPO(DurableTrainer, DPOTrainer)`. Without
    `keep_checkpoints` it makes none, and trains to the same weights. It expects `max_steps` to be set,
    `logging_steps=1` and `save_strategy="no"`, which is what `Materials.arguments` gives.

    In several processes each saves nothing but the first, and all read the same folder.

    Override `extra_state` and `load_extra_state` for what a subclass carries from step to step, and
    `may_save` if it carries something that cannot be stored at every step.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._checkpoints: Checkpoints | None = None
        self._began, self._spent = time.monotonic(), 0.0
        self.add_callback(_Seeds(self))

    # --- what subclasses may override ---------------------------------------------------------------

    def extra_state(self) -> Mapping[str, Any]:
        """What else the next step depends on: nested dicts, lists and tuples of tensors and plain values."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what `extra_state` returned."""

    def may_save(self) -> bool:
        """Whether what is stored describes the training whole at the end of this step."""
        return True

    # --- use ----------------------------------------------------------------------------------------

    def keep_checkpoints(self, checkpoints: Checkpoints, *, steps: int | None, seconds: float) -> None:
        """Saves every so many steps, or, if that is None, about every so many seconds.

        By the clock a save costs 1 % of the time at most: the slower saves are, the rarer they become.
        """
        self._checkpoints = checkpoints
        self.add_callback(_Clock(self, steps=steps, seconds=seconds))

    @property
    def seconds(self) -> float:
        """How long the training has taken, with what it took before it was interrupted."""
        return self._spent + time.monotonic() - self._began

    def go_on(self, checkpoint: Checkpoint | None) -> TrainOutput:
        """Trains from a checkpoint, or from the start."""
        self._began, self._spent = time.monotonic(), checkpoint.seconds if checkpoint else 0.0
        if checkpoint is None:
            return self.train()
        if checkpoint.step >= self.args.max_steps:
            # All steps are made; `Trainer.train` would make one more.
            self._load_from_checkpoint(str(checkpoint.path))
            self.state = TrainerState.load_from_json(str(checkpoint.path / _TRAINER))
            return TrainOutput(self.state.global_step, 0.0, {})
        return self.train(resume_from_checkpoint=str(checkpoint.path))

    def over_processes(self, value: float) -> float:
        """The sum of a number over all processes."""
        if self.args.world_size == 1:
            return value
        found = torch.tensor(value, dtype=torch.float64, device=self.args.device)
        return float(self.accelerator.reduce(found, reduction="sum"))

    def through(self, wrapper: Any, function: Callable[..., Any], *args: Any) -> Any:
        """Calls a function inside the forward pass of the wrapped model (DDP, FSDP, DeepSpeed).

        A wrapper that never sees a forward pass reduces no gradients, without a word.
        """
        module = self.accelerator.unwrap_model(wrapper, keep_torch_compile=False)
        if wrapper is module:
            return function(*args)
        forward = module.forward

        def once(*inner: Any, **_: Any) -> Any:
            module.forward = forward
            return function(*inner)

        module.forward = once
        try:
            return wrapper(*args)
        finally:
            module.forward = forward

    # --- randomness ---------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """Takes the batches of one optimiser step and seeds what the step draws."""
        taken = super().get_batch_samples(epoch_iterator, num_batches, device)
        reseed("step", self.args.seed, self.state.global_step, self.args.process_index)
        return taken

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Adds the most memory that was used to what is logged of a step."""
        super().log({**logs, MEMORY: peak_memory()} if "loss" in logs else logs, *args, **options)

    # --- what Trainer calls -------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._checkpoints is None or not self.args.should_save:
            return
        try:
            self._checkpoints.save(self.state.global_step, self._write, seconds=self.seconds)
        except InfrastructureError as error:
            # Training is what takes the time: it goes on, and older checkpoints are still there.
            self._checkpoints.tell(f"No checkpoint of step {self.state.global_step}: {error}")

    def _write(self, folder: Path) -> None:
        write_state(folder, _WEIGHTS, dict(_trained(self.model)))
        scaler = getattr(self.accelerator, "scaler", None)
        state = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.lr_scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "extra": dict(self.extra_state()),
        }
        write_state(folder, _STATE, state)
        self.state.stateful_callbacks = self._callback_states()
        write_json(folder / _TRAINER, asdict(self.state))

    def _callback_states(self) -> dict[str, Any]:
        states: dict[str, Any] = {}
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                states.setdefault(type(callback).__name__, []).append(callback.state())
        return states

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        kept, own = read_state(folder, _WEIGHTS), dict(_trained(self.model))
        if {name: tensor.shape for name, tensor in kept.items()} != {
            name: tensor.shape for name, tensor in own.items()
        }:
            raise ResumeError(f"{folder / _WEIGHTS} holds other weights than those that are trained")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(kept[name])
        self.load_extra_state(read_state(folder, _STATE)["extra"])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state = read_state(Path(checkpoint), _STATE)
            self.optimizer.load_state_dict(state["optimizer"])
            self.lr_scheduler.load_state_dict(state["scheduler"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if checkpoint is not None and scaler is not None:
            scaler.load_state_dict(read_state(Path(checkpoint), _STATE)["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing: every step is seeded anew."""


def peak_memory() -> float:
    """The most memory held at once, in 10^9 bytes: the accelerator's if there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    try:
        import resource
    except ImportError:  # not on Windows
        return 0.0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most * (1 if sys.platform == "darwin" else 1024)) / 1e9


def reseed(*place: Any) -> None:
    """Seeds the generators of Python, NumPy and torch from where the training is."""
    set_seed(derive_seed(*place) % 2**32)


def _trained(model: Any) -> Iterator[tuple[str, Any]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


class _Seeds(TrainerCallback):
    """Makes the order of the data, and what is drawn while it is read, a function of seed and epoch."""

    def __init__(self, trainer: DurableTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        epoch = int(state.epoch + 1e-6)
        loader = options["train_dataloader"]
        # Trainer tells a loader its epoch only when no batch of the epoch is skipped.
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(epoch)
        for generator in _generators(loader):
            generator.manual_seed(args.seed + epoch)
        # The loader has no setter, and its subclasses are of many kinds.
        attributes = vars(getattr(loader, "base_dataloader", loader))
        if not isinstance(attributes["dataset"], torch.utils.data.IterableDataset):
            inner = getattr(attributes["dataset"], "seeded", attributes["dataset"])
            attributes["dataset"] = _Seeded(inner, ("data", args.seed, epoch))
        # All processes alike: a sampler without a generator of its own draws its order now.
        reseed("epoch", args.seed, epoch)


class _Seeded:
    """A dataset that is read with generators seeded for each batch, in whatever process it is read.

    A loader reads ahead by a batch, or by several in workers of its own, so the step that a batch is used
    in cannot seed it.
    """

    def __init__(self, dataset: Any, place: tuple[Any, ...]) -> None:
        self.seeded, self._place = dataset, place

    def __len__(self) -> int:
        return len(self.seeded)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "seeded":
            raise AttributeError(name)
        return getattr(self.seeded, name)

    def __getitem__(self, index: Any) -> Any:
        reseed(*self._place, [str(index)])
        return self.seeded[index]

    def __getitems__(self, indices: list[Any]) -> Any:
        reseed(*self._place, [str(index) for index in indices])
        many = getattr(self.seeded, "__getitems__", None)
        return many(indices) if many else [self.seeded[index] for index in indices]


def _generators(loader: Any) -> Iterator[torch.Generator]:
    """Generators that samplers own, wherever they are wrapped."""
    waiting, seen = [loader], set()
    while waiting:
        part = waiting.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(generator := getattr(part, "generator", None), torch.Generator):
            yield generator
        waiting += [getattr(part, name, None) for name in ("sampler", "batch_sampler", "base_dataloader")]


class _Clock(TrainerCallback):
    """Says when to save."""

    def __init__(self, trainer: DurableTrainer, *, steps: int | None, seconds: float) -> None:
        self.trainer, self.steps, self.seconds = trainer, steps, seconds
        self.due, self.interval, self.last = False, seconds, time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if self.steps is not None:
            self.due |= state.global_step % self.steps == 0
        else:
            self.due |= time.monotonic() - self.last >= self.interval
        if self.due and self.trainer.may_save():
            self.due, self.last, control.should_save = False, time.monotonic(), True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.monotonic()
        self.interval, self.last = max(self.seconds, (now - self.last) / _COST), now
