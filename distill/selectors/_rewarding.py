"""What a selector says of recorded turns, as a reward that builders of data sets go by."""

from __future__ import annotations

from collections.abc import Iterable

from docendo.distill.datasets._messages import messages_of
from docendo.distill.selectors._selector import Selector
from docendo.errors import ConfigError
from docendo.records import Trace


def reward_traces(traces: Iterable[Trace], selector: Selector, *, reward: str = "preference") -> list[Trace]:
    """Gives each turn its score as a reward, so that pairs and sets can be built by it.

    With `InContextPreference` it is the first half of ARTE (Liu et al. 2024, arXiv 2406.19227): of drafts
    that were scored so `pairs_dataset(..., reward="preference", select="top_bottom")` takes the best and the
    worst to each question, for `train_dpo`. What the store holds stays as it is.

    Args:
        traces: Recorded turns.
        selector: Scores them, as rows with `prompt`, `completion` and `item`; `Shuffled` is the control.
        reward: Name of the reward; one that is there is replaced.

    Returns:
        The turns that have a score, in their order.

    Raises:
        ConfigError: if the name is empty.
        DataError: if there are no turns, or the selector can score none.

    Example:
        >>> from docendo.distill import ShortestCorrect, reward_traces
        >>> from docendo.records import Author, Trace
        >>> turns = [
        ...     Trace(id=text, run="r", item="i", split="train", completion=text, rewards={"verified": 1.0},
        ...           author=Author(agent="t", role="teacher"),
        ...           messages=({"role": "user", "content": "2 + 2"},))
        ...     for text in ("4", "two and two are 4")
        ... ]
        >>> [turn.rewards["short"] for turn in reward_traces(turns, ShortestCorrect(), reward="short")]
        [1.0, 0.5]
    """
    if not reward:
        raise ConfigError("the reward has no name", expected="one such as 'preference'")
    turns = list(traces)
    rows = [
        {
            "prompt": messages_of(turn.messages),
            "completion": turn.completion,
            "item": turn.item,
            "rewards": dict(turn.rewards),
        }
        for turn in turns
    ]
    scores = selector.score(rows).scores
    return [
        turn.replace(rewards={**turn.rewards, reward: score})
        for turn, score in zip(turns, scores, strict=True)
        if score is not None
    ]
