"""Prompts whose answers the student writes itself, tokenised as the engine serves them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from docendo.agents._templates import has_chat_template, prompt_ids
from docendo.distill.training._batches import Encoded
from docendo.distill.training._method import Materials
from docendo.distill.training._spans import plain
from docendo.distill.training._trl import probe
from docendo.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Prompts that leave room for an answer.

    Attributes:
        rows: Their rows.
        ids: Their token ids.
        too_long: How many were left out.
    """

    rows: Sequence[Mapping[str, Any]]
    ids: Sequence[Sequence[int]]
    too_long: int

    def counts(self) -> dict[str, int]:
        """Counts for the manifest; answers do not exist yet."""
        return {
            "examples": len(self.ids),
            "too_long": self.too_long,
            "tokens": sum(map(len, self.ids)),
            "completion_tokens": 0,
        }


def read_prompts(materials: Materials, answer: int) -> Prompts:
    """Tokenises the prompts of rows; `answer` is how many tokens each leaves room for.

    Raises:
        DataError: if a row has no prompt, or none is short enough.
    """
    rows, ids = [], []
    for number, row in enumerate(materials.rows):
        try:
            prompt = prompt_ids(materials.tokenizer, plain(row["prompt"]), plain(row.get("tools") or ()))
        except (KeyError, ConfigError, TypeError) as error:
            raise DataError(
                f"row {number} of the dataset has no prompt that can be rendered ({error})",
                expected="chat messages or text in the column 'prompt'",
            ) from None
        if len(prompt) + answer <= materials.config.max_length:
            rows.append(row)
            ids.append(prompt)
    if not ids:
        raise DataError(
            f"none of {len(materials.rows)} prompts leaves room for {answer} tokens",
            expected=f"prompt and answer of at most {materials.config.max_length} tokens",
            remedy="lower max_completion_length or raise max_length",
        )
    return Prompts(rows=rows, ids=ids, too_long=len(materials.rows) - len(ids))


def require_prompts(prompts: Prompts, least: int, setting: str) -> None:
    """Checks that there are prompts for one step: the sampler drops what is left over, without a word.

    Raises:
        DataError: if there are fewer than `least`.
    """
    if len(prompts.ids) < least:
        raise DataError(
            f"there are {len(prompts.ids)} prompts, and a step takes {least}",
            expected="at least those of one step",
            remedy=f"lower {setting}, or take more items",
        )


def probe_of(materials: Materials, prompts: Prompts) -> Callable[[], Any]:
    """Logits of the first token of two answers."""
    return probe(materials, [Encoded(prompt=tuple(ids), completion=(0,)) for ids in prompts.ids[:2]])


def text_of(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    """From the ids of an answer to its text, as the engine reads it."""
    spaced = not has_chat_template(tokenizer)

    def decode(ids: Sequence[int]) -> str:
        text = str(tokenizer.decode(list(ids), skip_special_tokens=True))
        return text.removeprefix(" ") if spaced else text

    return decode
