"""Which items tell good models from bad ones: item response theory, or correlation where models are few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from docendo.checks import is_count
from docendo.errors import ConfigError, DataError
from docendo.records import Record

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

#: Below it a model of two parameters for each item has more of them than there is to learn from.
_LEAST_MODELS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrimination(Record):
    """The items that tell models apart best.

    Attributes:
        indices: The chosen items, the best first.
        discrimination: Of every item: the slope of its 2PL curve, or its item-rest correlation.
        difficulty: Of every item: the ability at which half answer it; empty without a 2PL model.
        ability: Of every model; empty without a 2PL model.
        method: Which of the two it is.
    """

    indices: tuple[int, ...]
    discrimination: tuple[float, ...]
    difficulty: tuple[float, ...]
    ability: tuple[float, ...]
    method: Literal["2pl", "item-rest"]


def discriminative_items(
    matrix: Sequence[Sequence[float]], k: int, *, keys: Sequence[str] | None = None
) -> Discrimination:
    """Chooses the k items that tell good models from bad ones best, as ARTE chooses its probes.

    With five models or more, a two-parameter logistic model (Birnbaum 1968) says that model m answers item
    i with the probability 1 / (1 + exp(-a_i (theta_m - b_i))); the items with the highest discrimination a
    are taken (arXiv 2406.19227 takes 40 of about 100). It is fitted by L-BFGS to the posterior mode, with
    normal priors: abilities N(0, 1), difficulties N(0, 2), logarithms of discriminations N(0, 0.5); these
    keep items finite that all models answer alike. With fewer models it is the correlation of an item
    with the number of other items answered, and 0 where either does not vary.

    Args:
        matrix: For each model, whether it answered each item: 0 or 1, models x items.
        k: How many items to choose, at most all.
        keys: Ids of the items, which tell equal ones apart; by default their place does.

    Raises:
        DataError: if the matrix is empty or ragged, or holds anything but 0 and 1.
        ConfigError: if k is not from 1 to the number of items.

    Example:
        >>> found = discriminative_items([[1, 0, 1], [0, 1, 1], [1, 0, 1], [0, 0, 0]], 1)
        >>> found.method, found.indices
        ('item-rest', (2,))
    """
    answers = _matrix(matrix)
    items = answers.shape[1]
    if not (is_count(k) and 1 <= k <= items):
        raise ConfigError(f"k is {k!r}", expected=f"1 to {items}, the number of items")
    names = [f"{at:012d}" for at in range(items)] if keys is None else list(keys)
    if len(names) != items:
        raise DataError(f"{items} items and {len(names)} keys", expected="as many")
    slopes, difficulty, ability = (
        _two_parameters(answers) if len(answers) >= _LEAST_MODELS else (_item_rest(answers), (), ())
    )
    # What differs by less than the fit's own accuracy is equal.
    order = sorted(range(items), key=lambda at: (-round(slopes[at], 4), names[at]))
    return Discrimination(
        indices=tuple(order[:k]),
        discrimination=tuple(slopes),
        difficulty=tuple(difficulty),
        ability=tuple(ability),
        method="2pl" if len(answers) >= _LEAST_MODELS else "item-rest",
    )


def _matrix(given: Any) -> Array:
    import numpy as np

    try:
        answers = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"the matrix is no table of numbers ({error})", expected="models x items") from None
    if answers.ndim != 2 or not answers.size:
        raise DataError(f"the matrix has the shape {answers.shape}", expected="models x items")
    if not np.isin(answers, (0.0, 1.0)).all():
        raise DataError("the matrix holds other numbers than 0 and 1", expected="whether each was answered")
    return answers


def _item_rest(answers: Array) -> list[float]:
    import numpy as np

    found = []
    for item in answers.T:
        rest = answers.sum(axis=1) - item
        varies = item.std() > 0 and rest.std() > 0
        found.append(float(np.corrcoef(item, rest)[0, 1]) if varies else 0.0)
    return found


def _two_parameters(answers: Array) -> tuple[list[float], list[float], list[float]]:
    """Discriminations, difficulties and abilities at the posterior mode."""
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import log_expit

    models, items = answers.shape

    def parts(vector: Array) -> tuple[Array, Array, Array]:
        return vector[:models], vector[models : models + items], vector[models + items :]

    def loss(vector: Array) -> tuple[float, Array]:
        ability, difficulty, log_slope = parts(vector)
        slope = np.exp(log_slope)
        gap = ability[:, None] - difficulty[None, :]
        logits = slope * gap
        wrong = np.exp(log_expit(logits)) - answers
        value = -(answers * log_expit(logits) + (1 - answers) * log_expit(-logits)).sum()
        value += (ability**2).sum() / 2 + (difficulty**2).sum() / 8 + 2 * (log_slope**2).sum()
        gradient = np.concatenate(
            [
                (wrong * slope).sum(axis=1) + ability,
                -(wrong * slope).sum(axis=0) + difficulty / 4,
                (wrong * logits).sum(axis=0) + 4 * log_slope,
            ]
        )
        return float(value), gradient

    # Abilities start in the right order: mirrored abilities would be a mode as well, with negative slopes.
    share = (answers.sum(axis=1) + 0.5) / (items + 1)
    start = np.concatenate([np.log(share / (1 - share)), np.zeros(2 * items)])
    fit = minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "gtol": 1e-6, "ftol": 1e-14}
    )
    ability, difficulty, log_slope = parts(fit.x)
    return np.exp(log_slope).tolist(), difficulty.tolist(), ability.tolist()
