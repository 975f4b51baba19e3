"""TRL's trainers with checkpoints of docendo's, over rows that docendo has tokenised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import trl
from transformers import TrainerCallback
from transformers.trainer_utils import TrainOutput

from docendo.distill.training._checkpoints import Checkpoint
from docendo.distill.training._durable import DurableTrainer
from docendo.distill.training._trl import require_hooks
from docendo.errors import SilentNoOp

require_hooks(trl.DPOTrainer, "_prepare_dataset")
require_hooks(trl.KTOTrainer, "_prepare_dataset")
require_hooks(trl.GRPOTrainer, "_tokenize_prompts")
require_hooks(trl.DistillationTrainer, "_tokenize_prompts")


class _Tokenised:
    """Takes rows as they are: TRL's own tokenisation is not that of the engine."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


class DurableDPO(_Tokenised, DurableTrainer, trl.DPOTrainer):
    """`trl.DPOTrainer` over rows of `prompt_ids`, `chosen_ids` and `rejected_ids`.

    With a second loss, `sft`, both are logged, before their weights: `preference` and `nll`.
    """

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Returns TRL's loss and notes its terms."""
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if "sft" in self.loss_types:
            mode = "train" if self.model.training else "eval"
            chosen = inputs["completion_mask"].chunk(2)[0]
            # TRL logs the mean over rows; its second loss is the mean over tokens.
            share = self.over_processes(float(len(chosen))) / self.over_processes(float(chosen.sum()))
            nll = -self._metrics[mode]["logps/chosen"][-1] * share
            whole = self.over_processes(float((loss[0] if return_outputs else loss).detach()))
            weight = self.loss_weights[self.loss_types.index("sft")]
            self._metrics[mode]["nll"].append(nll)
            self._metrics[mode]["preference"].append(whole / self.args.world_size - weight * nll)
        return loss


class DurableKTO(_Tokenised, DurableTrainer, trl.KTOTrainer):
    """`trl.KTOTrainer` over rows of `prompt_ids`, `completion_ids`, `KL_completion_ids` and `label`."""


class _Prompted:
    """Takes a prompt to be the number of one that docendo has tokenised."""

    prompts: Sequence[Sequence[int]] = ()

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self.prompts[int(prompt)]) for prompt in prompts], None, {}


class DurableGRPO(_Prompted, DurableTrainer, trl.GRPOTrainer):
    """`trl.GRPOTrainer` that can be resumed where answers are sampled anew."""

    def __init__(self, *args: Any, prompts: Sequence[Sequence[int]], **options: Any) -> None:
        super().__init__(*args, **options)
        self.prompts = prompts
        self.spread = Spread()
        self.add_callback(self.spread)

    def go_on(self, checkpoint: Checkpoint | None) -> TrainOutput:
        """Trains, and makes sure that there was something to learn, also in steps of before it was killed.

        Raises:
            SilentNoOp: if all groups had equal rewards.
        """
        trained = super().go_on(checkpoint)
        self.spread.require()
        return trained

    def may_save(self) -> bool:
        """Only where the next step samples: answers that are half used are not stored."""
        every: int = self.args.steps_per_generation * self.num_iterations
        return self._step % every == 0

    def extra_state(self) -> Mapping[str, Any]:
        """Whether any group of answers had unequal rewards so far."""
        return {"sampled": self.spread.sampled, "unequal": self.spread.unequal}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Takes it back."""
        self.spread.sampled, self.spread.unequal = state["sampled"], state["unequal"]


class DurableOnPolicy(_Prompted, DurableTrainer, trl.DistillationTrainer):
    """`trl.DistillationTrainer`, which samples at every optimiser step."""

    def __init__(self, *args: Any, prompts: Sequence[Sequence[int]], **options: Any) -> None:
        super().__init__(*args, **options)
        self.prompts = prompts


class Spread(TrainerCallback):
    """Counts rounds of sampling in which some group had unequal rewards; without any, nothing is learnt."""

    def __init__(self) -> None:
        self.sampled = self.unequal = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        equal = (logs or {}).get("frac_reward_zero_std")
        if equal is not None:
            self.sampled += 1
            self.unequal += equal < 1

    def require(self) -> None:
        """Refuses a training in which there was nothing to learn."""
        if self.sampled and not self.unequal:
            raise SilentNoOp(
                f"All answers of a group had equal rewards, in each of {self.sampled} rounds of sampling, so "
                "there was nothing to learn; take items that are solved sometimes, sample more answers "
                "(num_generations), or check the rewards."
            )
