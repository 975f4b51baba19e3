"""A small trained reader for studies of memories: it reads some dozen words and picks one of those offered.

A convolutional network over words, trained from scratch in the study. Each option is judged by the text as it
looks from there: the option itself, what is asked about, and all other names have one mark each, so
that what can be learnt is how to use a text and not what the names of one world mean. Its errors are those
of a trained model, and its choices are sampled from its probabilities.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_MARKS = ("", "<this>", "<asked>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the reader is shown.

    Attributes:
        text: Words, the memory first.
        asked: The word that it is about.
        options: Words to choose from.
        right: The right one, in training.
    """

    text: str
    asked: str
    options: tuple[str, ...]
    right: str = ""


class Reader:
    """Reads and chooses.

    Args:
        names: Groups of names; within a group all look alike.
        words: All other words it knows.
        seed: Of weights and batches.
        channels: Width of the network.
    """

    def __init__(
        self, names: Sequence[Sequence[str]], words: Sequence[str], *, seed: int, channels: int = 48
    ) -> None:
        import torch

        marks = [*_MARKS, *(f"<{number}>" for number in range(len(names))), *words]
        self.index = {word: number for number, word in enumerate(marks)}
        for number, group in enumerate(names):
            self.index.update(dict.fromkeys(group, self.index[f"<{number}>"]))
        self.draw, self.length = random.Random(seed), 0
        torch.manual_seed(seed)
        self.words = torch.nn.Embedding(len(marks), 24, padding_idx=0)
        self.spans = torch.nn.Conv1d(24, channels, 9, padding=4)
        self.judge = torch.nn.Sequential(
            torch.nn.Linear(2 * channels, channels), torch.nn.ReLU(), torch.nn.Linear(channels, 1)
        )
        self.modules = torch.nn.ModuleList([self.words, self.spans, self.judge])

    def encode(self, question: Question) -> list[list[int]]:
        """The text as it looks from each option."""
        words = question.text.split()[1 - self.length :]
        plain = [self.index["<asked>"] if word == question.asked else self.index[word] for word in words]
        rows = []
        for option in question.options:
            row = [1 if word == option else mark for word, mark in zip(words, plain, strict=True)]
            row.append(self.index[option])  # a digit is more than a place in the text
            rows.append([0] * (self.length - len(row)) + row)
        return rows

    def train(self, questions: Sequence[Question], *, steps: int, batch: int = 64) -> dict[str, float]:
        """Trains on questions with right answers, all with equally many options; returns loss and seconds."""
        import torch

        began = time.perf_counter()
        self.length = 1 + max(len(question.text.split()) for question in questions)
        texts = torch.tensor([self.encode(question) for question in questions], dtype=torch.int16)
        right = torch.tensor([question.options.index(question.right) for question in questions])
        optimiser = torch.optim.AdamW(self.modules.parameters(), lr=4e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
        losses = []
        for _ in range(steps):
            chosen = torch.tensor(self.draw.choices(range(len(questions)), k=batch))
            loss = torch.nn.functional.cross_entropy(self._scores(texts[chosen].long()), right[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        tail = losses[-max(1, steps // 10) :]
        return {"loss": sum(tail) / len(tail), "seconds": time.perf_counter() - began}

    def probabilities(self, questions: Sequence[Question]) -> list[list[float]]:
        """The probability of each option; all questions have equally many."""
        import torch

        with torch.no_grad():
            scores = self._scores(torch.tensor([self.encode(question) for question in questions]))
            shares: list[list[float]] = torch.softmax(scores, -1).tolist()
        return shares

    def _scores(self, texts: Any) -> Any:
        import torch

        count, options, length = texts.shape
        flat = texts.view(-1, length)
        spans = torch.relu(self.spans(self.words(flat).transpose(1, 2)))
        both = torch.cat([spans.amax(-1), spans.mean(-1)], -1)
        return self.judge(both).view(count, options)


def sampled(shares: Sequence[float], draw: random.Random) -> int:
    """The number of a choice, drawn by its probability."""
    return draw.choices(range(len(shares)), weights=shares)[0]


def clipped(lines: Sequence[str], words: int) -> str:
    """Whole lines from the front as long as they fit into a number of words."""
    kept: list[str] = []
    for line in lines:
        if len(line.split()) + sum(len(one.split()) for one in kept) > words:
            break
        kept.append(line)
    return " ".join(kept)
