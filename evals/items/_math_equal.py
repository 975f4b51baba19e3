"""Whether two mathematical objects are the same, exactly.

math-verify reads them, but its own comparison rounds and forgives: 15 digits of a third are a third to it,
50 % is 50, a pair is a set, and two equations without a solution are one. Here numbers are compared at more
digits than the texts have, expressions at random rational points, and equations as multiples of each other.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import reduce
from typing import Any

import sympy  # type: ignore[import-untyped]

_Undefined = sympy.core.function.AppliedUndef
#: Points at which expressions with variables are compared, and how many may have no value.
_POINTS, _MORE = 5, 15


#: A pair and the like, a finite set, and the links of a chain of relations.
class _Ordered(tuple[Any, ...]): ...


class _Unordered(tuple[Any, ...]): ...


class _Relations(tuple[Any, ...]): ...


def equal(gold: Any, answer: Any, *, digits: int, seed: str) -> bool:
    """Whether two objects as math-verify reads them are the same.

    An equation such as `x = 3` is also its right side, if the other one is no equation. Inequalities in one
    variable are also the set of its solutions.

    Args:
        gold: The reference.
        answer: What is compared with it.
        digits: Precision of the comparison: more than either text has.
        seed: Chooses the points at which expressions are compared.
    """
    return _Judge(digits, seed).same(_exact(gold), _exact(answer))


class _Judge:
    def __init__(self, digits: int, seed: str) -> None:
        self._digits, self._seed = digits, seed

    def same(self, gold: Any, answer: Any) -> bool:
        if isinstance(gold, _Relations) and isinstance(answer, _Relations):
            return self._same_relations(gold, answer)
        if isinstance(gold, _Relations) or isinstance(answer, _Relations):
            gold, answer = self._value(gold), self._value(answer)
        if isinstance(gold, sympy.Set) or isinstance(answer, sympy.Set):
            gold, answer = _solutions(gold), _solutions(answer)
        for kind, compare in (
            (_Ordered, self._each),
            (_Unordered, self._any_order),
            (sympy.MatrixBase, self._same_matrices),
            (sympy.Set, self._same_sets),
            (sympy.Expr, self._same_values),
        ):
            if isinstance(gold, kind) and isinstance(answer, kind):
                return compare(gold, answer)
        return False

    def _each(self, golds: Sequence[Any], answers: Sequence[Any]) -> bool:
        return len(golds) == len(answers) and all(map(self.same, golds, answers))

    def _any_order(self, golds: Sequence[Any], answers: Sequence[Any]) -> bool:
        rest = list(answers)
        for gold in golds:
            found = next((place for place, other in enumerate(rest) if self.same(gold, other)), None)
            if found is None:
                return False
            rest.pop(found)
        return not rest

    def _same_matrices(self, gold: Any, answer: Any) -> bool:
        return gold.shape == answer.shape and self._each(gold.flat(), answer.flat())

    def _same_sets(self, gold: Any, answer: Any) -> bool:
        if isinstance(gold, sympy.Interval) and isinstance(answer, sympy.Interval):
            ends = gold.left_open == answer.left_open and gold.right_open == answer.right_open
            return ends and self._each((gold.start, gold.end), (answer.start, answer.end))
        if type(gold) is type(answer) and isinstance(gold, (sympy.Union, sympy.Intersection)):
            return self._any_order([*map(_exact, gold.args)], [*map(_exact, answer.args)])
        return bool(gold == answer)

    def _same_values(self, gold: Any, answer: Any) -> bool:
        if gold.has(sympy.nan, sympy.zoo) or answer.has(sympy.nan, sympy.zoo):
            return False
        return bool(gold == answer) or self._zero(gold - answer)

    def _value(self, chain: Any) -> Any:
        """What a chain of equations says of its first side: a name, or what is equal to all the others."""
        if not isinstance(chain, _Relations) or not all(isinstance(link, sympy.Eq) for link in chain):
            return chain
        first, *sides = map(_exact, (chain[0].lhs, *(link.rhs for link in chain)))
        parts = first if isinstance(first, _Ordered) else (first,)
        named = all(isinstance(part, (sympy.Symbol, _Undefined)) for part in parts)
        stated = sides if named else [first, *sides]
        return sides[-1] if all(self.same(side, sides[-1]) for side in stated) else chain

    def _same_relations(self, golds: Sequence[Any], answers: Sequence[Any]) -> bool:
        orders = (answers, answers[::-1])
        return len(golds) == len(answers) and any(all(map(self._same_link, golds, each)) for each in orders)

    def _same_link(self, gold: Any, answer: Any) -> bool:
        """Equations and inequalities are the same if one is a multiple of the other."""
        (kind, *left), (other, *right) = _sides(gold), _sides(answer)
        if kind != other:
            return False
        if self._each(left, right):
            return True
        if not all(isinstance(side, sympy.Expr) for side in (*left, *right)):
            return False
        first, second = left[0] - left[1], right[0] - right[1]
        for point in self._points(first, second):
            factor = (first / second).xreplace(point)
            if factor.is_finite and factor != 0:
                signed = kind in ("=", "!=") or bool(factor > 0)
                return signed and self._zero(first - factor * second)
        return False

    def _zero(self, difference: Any) -> bool:
        if difference.is_Rational:
            return bool(difference == 0)
        known = 0
        for point in self._points(difference):
            value = difference.xreplace(point).evalf(self._digits, maxn=2 * self._digits)
            if not value.is_number or not value.is_finite:
                continue
            # A part of which no digit is significant is zero.
            if not all(part == 0 or getattr(part, "_prec", 0) == 1 for part in value.as_real_imag()):
                return False
            known += 1
            if known == _POINTS or not point:
                return True
        return False

    def _points(self, *expressions: Any) -> list[dict[Any, Any]]:
        names: set[Any] = set().union(*(each.free_symbols | each.atoms(_Undefined) for each in expressions))
        if not names:
            return [{}]
        draw = random.Random(self._seed)
        return [
            {
                name: sympy.Rational(draw.choice((-1, 1)) * draw.randint(1, 4000), 1009)
                for name in sorted(names, key=str)
            }
            for _ in range(_POINTS + _MORE)
        ]


def _exact(value: Any) -> Any:
    """Writes decimals as fractions and percents as hundredths, and forgets what is assumed of names."""
    if isinstance(value, sympy.MatrixBase):
        return value.applyfunc(_exact)
    if isinstance(value, sympy.And):
        return _Relations(
            part for link in getattr(value, "_unsorted_args", value.args) for part in _exact(link)
        )
    if isinstance(value, sympy.Rel):
        return _Relations([value])
    if isinstance(value, sympy.Tuple):
        return _Ordered(map(_exact, value.args))
    if not isinstance(value, sympy.FiniteSet):
        names = {each: _name(each) for each in value.free_symbols}
        decimals = {number: sympy.Rational(str(number)) for number in value.atoms(sympy.Float)}
        value = value.xreplace({**names, **decimals}).doit()
    return _Unordered(map(_exact, value.args)) if isinstance(value, sympy.FiniteSet) else value


def _name(symbol: Any) -> Any:
    return sympy.I if symbol.name == "i" else sympy.Symbol(symbol.name)


def _sides(relation: Any) -> tuple[str, Any, Any]:
    """The kind of a relation and its sides, the smaller one first."""
    left, right = _exact(relation.lhs), _exact(relation.rhs)
    if isinstance(relation, (sympy.Gt, sympy.Ge)):
        return ("<" if isinstance(relation, sympy.Gt) else "<="), right, left
    return {sympy.Eq: "=", sympy.Ne: "!=", sympy.Lt: "<", sympy.Le: "<="}[type(relation)], left, right


def _solutions(value: Any) -> Any:
    """The set of solutions of inequalities in one variable; anything else as it is.

    Links of a chain hold all, those of a list (`x < 1 or x > 2`) one by one.
    """
    links = value if isinstance(value, (_Relations, _Unordered)) else ()
    if not links or not all(isinstance(link, (sympy.Rel, _Relations)) for link in links):
        return value
    joined = sympy.Intersection if isinstance(value, _Relations) else sympy.Union
    try:
        return reduce(joined, map(_set, links))
    except (NotImplementedError, TypeError, ValueError):
        return value


def _set(link: Any) -> Any:
    if isinstance(link, _Relations):
        return _solutions(link)
    kind, left, right = _sides(link)
    holds = {"=": sympy.Eq, "!=": sympy.Ne, "<": sympy.Lt, "<=": sympy.Le}[kind](left, right)
    return holds.as_set()
