"""A `transformers.Trainer` that computes only what the loss needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from docendo.distill.training import _attention
from docendo.distill.training._batches import BucketSampler, Encoded, pack, pad
from docendo.distill.training._kernels import LinearCrossEntropy


class ObjectiveTrainer(Trainer):
    """Trains a `PeftModel` on the completions of chat examples.

    The loss is the weighted mean of cross-entropy over the completion tokens of one optimiser step,
    however many forward passes the step has; with all weights 1 it equals that of TRL's `SFTTrainer`
    with `completion_only_loss`. Batches hold examples of similar length; the vocabulary head runs only
    where there is a label; tokens that examples share are computed once (see `docendo.distill.pack`).

    Subclass it and override `objective` for another loss.

    Args:
        model: A `PeftModel` with a frozen base.
        args: Transformers' own settings.
        train_dataset: Encoded examples.
        packed: Whether to pack batches. None packs if a packed forward pass gives the same loss as the
            model's own on a probe, and pads otherwise.
        options: Anything else that `transformers.Trainer` takes.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        train_dataset: Sequence[Encoded],
        packed: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=train_dataset, **options)
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        # The loss below is already divided by the count of the whole step.
        self.model_accepts_loss_kwargs = True
        self.base = model.get_base_model()
        self.share = not any(
            isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules()
        ) and not getattr(self.base.config, "attention_dropout", 0.0)
        _attention.register()
        self.packed = self._packs() if packed is None else packed

    def collate(self, examples: Sequence[Encoded]) -> dict[str, Any]:
        """Makes a batch."""
        if self.packed:
            return pack(examples, share=self.share)
        return pad(examples, pad_id=self.base.config.pad_token_id or 0)

    def get_train_dataloader(self) -> Any:
        """Returns the length-bucketed batches; `set_epoch` changes their order."""
        lengths = [len(example) for example in self.train_dataset]
        sampler = BucketSampler(lengths, self.args.per_device_train_batch_size, seed=self.args.seed)
        return _Loader(self.train_dataset, batch_sampler=sampler, collate_fn=self.collate)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """Takes the batches of one optimiser step and their total label weight."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, sum(float(batch["weights"].sum()) for batch in batches)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Returns the loss of one batch, divided by the label weight of the optimiser step."""
        total = num_items_in_batch if num_items_in_batch is not None else float(inputs["weights"].sum())
        # A step whose labels all weigh 0 has loss 0, not 0 / 0.
        loss = self.objective(inputs) / max(float(total), 1e-12)
        return (loss, {}) if return_outputs else loss

    def objective(self, inputs: dict[str, Any]) -> Any:
        """Weighted sum of the cross-entropy over the labels of one batch."""
        head = self.base.get_output_embeddings()
        if self.packed:
            hidden = self.hidden(inputs)
            bias = getattr(head, "bias", None)
            return LinearCrossEntropy.apply(hidden, head.weight, bias, inputs["labels"], inputs["weights"])
        losses = torch.nn.functional.cross_entropy(
            self.logits(inputs).float(), inputs["labels"], reduction="none"
        )
        return (losses * inputs["weights"]).sum()

    def hidden(self, inputs: dict[str, Any]) -> Any:
        """Last hidden states at the tokens that predict a label (packed batches)."""
        with _implementation(self.base, _attention.NAME):
            states = self.base.model(
                input_ids=inputs["input_ids"],
                position_ids=inputs["position_ids"],
                use_cache=False,
                layout=inputs["layout"],
            ).last_hidden_state
        return states[0].index_select(0, inputs["sources"])

    def logits(self, inputs: dict[str, Any]) -> Any:
        """Logits at the tokens that predict a label, by the model's own forward pass (padded batches)."""
        output = self.base(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        ).logits
        return output.flatten(0, 1).index_select(0, inputs["sources"])

    def _packs(self) -> bool:
        """Whether a packed forward pass gives this model's own loss."""
        head = self.base.get_output_embeddings()
        if type(head) is not torch.nn.Linear or head.weight.requires_grad or not hasattr(self.base, "model"):
            return False
        examples = sorted(self.train_dataset, key=len)[:: max(1, len(self.train_dataset) // 3)][:4]
        was_training = self.base.training
        self.base.eval()
        try:
            with torch.no_grad():
                self.packed = False
                expected = float(self.objective(pad(examples)))
                self.packed = True
                found = float(self.objective(pack(examples, share=self.share)))
        except (TypeError, ValueError, RuntimeError, AttributeError):
            return False
        finally:
            self.base.train(was_training)
        tolerance = 1e-4 if self.base.dtype == torch.float32 else 1e-2
        return abs(found - expected) <= tolerance * abs(expected)


class _Loader(torch.utils.data.DataLoader):
    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.epoch = epoch


@contextmanager
def _implementation(model: Any, name: str) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
