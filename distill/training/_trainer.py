"""A `transformers.Trainer` that computes only what its objective looks at."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, TrainingArguments

from docendo.distill.objectives._objective import Labels, Objective, StateObjective
from docendo.distill.objectives._token import TOP_IDS, CrossEntropy
from docendo.distill.training._batches import BucketSampler, Encoded, Shared
from docendo.distill.training._durable import DurableTrainer
from docendo.distill.training._forward import Forward, Outputs, term_loss
from docendo.distill.training._models import HEADS
from docendo.distill.training._packing import labels_of
from docendo.errors import DataError

_log = logging.getLogger("docendo.distill")

_FAINT = 0.01
"""Share of the gradient below which a term is said to do nothing."""


class ObjectiveTrainer(DurableTrainer):
    """Trains a `PeftModel` on the completions of chat examples, by one objective or a sum of several.

    Each term is a sum over the batch, divided by its count over the whole optimiser step, however many
    forward passes the step has. With `CrossEntropy`, the default, and all weights 1 the loss equals that
    of TRL's `SFTTrainer` with `completion_only_loss`. Batches hold examples of similar length; the
    vocabulary head runs only where there is a label; tokens that examples share are computed once (see
    `docendo.distill.pack`).

    Each term is logged by its name on its own scale, before its weight, beside `tokens_per_second`. Where
    there are several, their shares of the gradient's norm are measured in steps 1, 2, 4, 8, ... and logged
    as `NAME_share`; a term below 1 % of the whole is warned of once.

    Args:
        model: A `PeftModel` with a frozen base.
        args: Transformers' own settings.
        train_dataset: Encoded examples.
        objective: What is minimised.
        teacher: A live teacher: a causal language model with the same tokenizer, never trained here.
        packed: Whether to pack batches. None packs if a packed forward pass gives the same loss as the
            model's own on a probe, and pads otherwise.
        options: Anything else that `transformers.Trainer` takes.

    Raises:
        DataError: if the objective needs a teacher, and there is neither a live nor a stored one; or if it
            compares answers, and no example has any to compare.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        train_dataset: Sequence[Encoded],
        objective: Objective | None = None,
        teacher: Any = None,
        packed: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=train_dataset, **options)
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        # The loss below is already divided by the count of the whole step.
        self.model_accepts_loss_kwargs = True
        self.terms = (objective or CrossEntropy()).terms
        _require_teacher(self.terms, train_dataset, teacher)
        _require_families(self.terms, train_dataset)
        self.base = model.get_base_model()
        self.forward = Forward(self.base, packed=packed, examples=train_dataset)
        self.teacher = None
        if teacher is not None:
            teacher = teacher.to(args.device).eval()
            self.teacher = Forward(teacher, packed=packed, examples=train_dataset)
            # Both run over the same batches, so both pack or neither does.
            self.teacher.packed = self.forward.packed = self.teacher.packed and self.forward.packed
        self._ends = any(isinstance(term, StateObjective) for _, term in self.terms)
        self.heads = self._heads()
        if self.heads:
            model.add_module(HEADS, self.heads)
        self._counts: dict[str, float] = {}
        self._seen: dict[str, float] = {}
        self._shares: dict[str, float] = {}
        self._tokens, self._since = 0, time.monotonic()

    def _heads(self) -> Any:
        """The layers that bring the student's states to the width of the teacher's."""
        heads = torch.nn.ModuleDict()
        if self.teacher is not None:
            for _, term in self.terms:
                if isinstance(term, StateObjective) and term.needs_states:
                    heads[term.name] = torch.nn.Linear(self.forward.width, self.teacher.width, bias=False)
        return heads.to(self.args.device)

    @property
    def packed(self) -> bool:
        """Whether batches are packed."""
        return self.forward.packed

    def collate(self, examples: Sequence[Encoded]) -> dict[str, Any]:
        """Makes a batch."""
        return {**self.forward.collate(examples), "tokens": sum(len(example) for example in examples)}

    def get_train_dataloader(self) -> Any:
        """Returns the length-bucketed batches; `set_epoch` changes their order."""
        lengths = [len(example) for example in self.train_dataset]
        sampler = BucketSampler(
            lengths,
            self.args.per_device_train_batch_size,
            seed=self.args.seed,
            processes=self.args.world_size,
            process=self.args.process_index,
        )
        return _Loader(Shared(self.train_dataset), batch_sampler=sampler, collate_fn=self.collate)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """Takes the batches of one optimiser step and counts what each term is divided by."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = self._counted([labels_of(batch) for batch in batches])
        self._counts = {name: self.over_processes(count) for name, count in counts.items()}
        return batches, self.over_processes(sum(float(batch["weights"].sum()) for batch in batches))

    def _counted(self, batches: Sequence[Labels]) -> dict[str, float]:
        learnt = [labels for labels in batches if labels.weights.any()]
        return {term.name: sum(term.count(labels) for labels in learnt) for _, term in self.terms}

    def extra_state(self) -> dict[str, Any]:
        """The shares of the gradient, which are logged until they are measured again."""
        return {"shares": self._shares}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Takes them back."""
        self._shares = dict(state["shares"])

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Returns the loss of one batch, each term divided by its count of the optimiser step."""
        counts = self._counts if num_items_in_batch is not None else self._counted([labels_of(inputs)])
        # Gradients are averaged over processes, and the counts are sums over them.
        loss = self.args.world_size * self.through(model, self._loss, inputs, counts)
        return (loss, {}) if return_outputs else loss

    def _loss(self, inputs: dict[str, Any], counts: Mapping[str, float]) -> Any:
        labels = labels_of(inputs)
        outputs = self.forward(inputs, ends=self._ends)
        teacher = self._teach(inputs)
        losses, heads = {}, dict(self.heads.items())
        for weight, term in self.terms:
            # A step whose labels all weigh 0 has loss 0, not 0 / 0.
            found = term_loss(term, outputs, labels, teacher, heads.get(term.name)) / max(
                counts[term.name], 1e-12
            )
            losses[term.name] = weight * found
            self._seen[term.name] = self._seen.get(term.name, 0.0) + float(found.detach())
        self._tokens += inputs.get("tokens", 0)
        if len(losses) > 1 and self._is_measured():
            self._measure(losses, outputs)
        return sum(losses.values()) * float(labels.weights.any())

    def _teach(self, inputs: Mapping[str, Any]) -> Outputs | None:
        if self.teacher is None or not any(needs_teacher(term) for _, term in self.terms):
            return None
        with torch.no_grad():
            return self.teacher(inputs, ends=bool(self.heads))

    def _is_measured(self) -> bool:
        step = self.state.global_step + 1
        return self.model.training and step & (step - 1) == 0

    def _measure(self, losses: Mapping[str, Any], outputs: Outputs) -> None:
        """Notes each term's share of the gradient's norm, at the states that all terms start from."""
        points = [one for one in (outputs.source, outputs.ends) if one is not None and one.requires_grad]
        norms = {}
        for name, loss in losses.items():
            grads = torch.autograd.grad(loss, points, retain_graph=True, allow_unused=True)
            norms[name] = math.sqrt(
                sum(float(grad.float().square().sum()) for grad in grads if grad is not None)
            )
        whole = sum(norms.values())
        for name, norm in norms.items():
            share = norm / whole if whole else 0.0
            if share < _FAINT and name not in self._shares:
                _log.warning(
                    "the term %s has %.2f %% of the gradient in step %d: it changes next to nothing; "
                    "raise its weight or leave it out",
                    name,
                    100 * share,
                    self.state.global_step + 1,
                )
            self._shares[name] = share

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Adds the terms, their shares of the gradient and the speed to what is logged at a step."""
        if "loss" in logs:
            steps = self.args.logging_steps if self.args.logging_steps >= 1 else 1
            now = time.monotonic()
            if len(self.terms) > 1:
                logs = {**logs, **{name: self.over_processes(v) / steps for name, v in self._seen.items()}}
                logs |= {f"{name}_share": share for name, share in self._shares.items()}
            tokens = self.over_processes(self._tokens)
            logs = {**logs, "tokens_per_second": tokens / max(now - self._since, 1e-9)}
            self._seen, self._tokens, self._since = {}, 0, now
        super().log(logs, *args, **options)


def _require_teacher(
    terms: Sequence[tuple[float, Objective]], examples: Sequence[Encoded], teacher: Any
) -> None:
    needy = [term for _, term in terms if needs_teacher(term)]
    live = [term for term in needy if isinstance(term, StateObjective)]
    missing = live or any(TOP_IDS not in example.columns for example in examples)
    if needy and teacher is None and missing:
        raise DataError(
            f"{(live or needy)[0].name} has no teacher",
            expected="a live teacher"
            if live
            else "a live teacher, or stored log-probabilities of every example",
            remedy="give train(..., teacher=...)",
        )


def _require_families(terms: Sequence[tuple[float, Objective]], examples: Sequence[Encoded]) -> None:
    """Of rows that hold no answers to compare the term would be 0, without a word."""
    compared = [term for _, term in terms if isinstance(term, StateObjective) and term.needs_families]
    if compared and not any(example.positives and example.negatives for example in examples):
        raise DataError(
            f"no example has both positives and negatives, which {compared[0].name} compares",
            expected="rows of contrastive_dataset",
        )


def needs_teacher(term: Objective) -> bool:
    """Whether a term asks a teacher, for distributions or states."""
    return term.needs_teacher or (isinstance(term, StateObjective) and term.needs_states)


class _Loader(torch.utils.data.DataLoader):
    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.epoch = epoch
