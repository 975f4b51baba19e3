"""Makes generators of reasoning_gym repeatable: the same seed, the same question, in every process."""

from __future__ import annotations

import functools
import inspect
import random
import re
import sys
import warnings
from collections.abc import Iterator, Set
from contextlib import contextmanager, redirect_stdout
from typing import Any

_ARRAYS = re.compile(r"\b(?:np|numpy)\.random\b|\bexec\(")
# Methods whose list comes in the order of a set.
_LISTS = {"polynomial_multiplication": "_get_monomials"}


class _Sorted(set[Any]):
    """A set whose order does not depend on the hash seed of the process, as that of texts does."""

    def __iter__(self) -> Iterator[Any]:
        return iter(sorted(super().__iter__()))

    def __sub__(self, other: Set[Any]) -> _Sorted:
        return _Sorted(super().__sub__(other))


def settle(name: str, dataset: Any) -> Any:
    """Returns the data set of a generator with its sets in order, since some draw from them by place.

    Args:
        name: Name of the generator.
        dataset: Its data set, changed in place.
    """
    for key, value in list(vars(dataset).items()):
        settled = _in_order(value)
        if settled is not value:
            setattr(dataset, key, settled)
    if name in _LISTS:
        method = getattr(dataset, _LISTS[name])
        setattr(dataset, _LISTS[name], lambda *given: sorted(method(*given), key=str))
    return dataset


@contextmanager
def settled(dataset: type, seed: int) -> Iterator[None]:
    """Draws with random numbers of its own, and leaves those of the process as they were.

    Some generators use the global ones or seed them anew. What they print goes to stderr, what they warn of
    nowhere.

    Args:
        dataset: Class of the generator's data set.
        seed: Seed of the one draw.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        arrays = _arrays(seed, touched=_draws_arrays(dataset.__module__))
        with arrays, redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(state)


@contextmanager
def _arrays(seed: int, *, touched: bool) -> Iterator[None]:
    if not touched:  # keeping the state takes longer than most draws
        yield
        return
    import numpy

    state = numpy.random.get_state()
    numpy.random.seed(seed % 2**32)
    try:
        yield
    finally:
        numpy.random.set_state(state)


@functools.cache
def _draws_arrays(module: str) -> bool:
    """Whether a module uses numpy's global random numbers, or runs programs that may."""
    try:
        return bool(_ARRAYS.search(inspect.getsource(sys.modules[module])))
    except (OSError, TypeError, KeyError):
        return True


def _in_order(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        try:
            return _Sorted(sorted(value))
        except TypeError:  # without an order of its own
            return value
    if isinstance(value, dict) and any(isinstance(each, (dict, set, frozenset)) for each in value.values()):
        return {key: _in_order(each) for key, each in value.items()}
    return value
