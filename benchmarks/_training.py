"""What the bars of training share: conversations of mixed length, and a clock that counts tokens."""

from __future__ import annotations

import random
import time
from typing import Any

from transformers import TrainerCallback

WORDS = (
    "the",
    "cat",
    "dog",
    "river",
    "house",
    "stone",
    "green",
    "quick",
    "slow",
    "runs",
    "reads",
    "near",
    "far",
)


def chats(count: int) -> list[dict[str, Any]]:
    """Questions of 2 to 60 words and answers of 2 to 48, so that examples have about 32 to 138 tokens."""
    rng = random.Random(0)
    rows = []
    for _ in range(count):
        question = " ".join(rng.choices(WORDS, k=rng.randint(2, 60)))
        answer = " ".join(rng.choices(WORDS, k=rng.randint(2, 48)))
        rows.append(
            {
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": answer}],
            }
        )
    return rows


class Clock(TrainerCallback):
    """Counts tokens and times the steps; the first step is warm-up."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []
        self.tokens: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Notes when a step ended."""
        self.wall.append(time.perf_counter())
        self.processor.append(time.process_time())

    def counting(self, collate: Any) -> Any:
        """Returns `collate` with a count of the tokens it is given."""

        def counted(batch: Any) -> Any:
            self.tokens.append(
                sum(len(one["input_ids"]) if isinstance(one, dict) else len(one) for one in batch)
            )
            return collate(batch)

        return counted

    def rates(self) -> tuple[float, float]:
        """Tokens per wall second and per processor second after the first step."""
        tokens = sum(self.tokens[1 : len(self.wall)])
        return tokens / (self.wall[-1] - self.wall[0]), tokens / (self.processor[-1] - self.processor[0])
