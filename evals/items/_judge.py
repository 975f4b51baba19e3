"""A task's own scorer, made safe to call with text that a model wrote.

Security boundary. Several reasoning_gym scorers pass the answer to `eval` or to `sympy.parse_expr`
(which evaluates it), so an answer could run code. Covered here: text reaches such a scorer only if
it parses as a literal (numbers, texts, lists, dictionaries) or as a small formula of numbers,
one-letter names, + - * / and bounded powers, and a few named functions. Whether a scorer evaluates
is read from its module's source, so that new tasks are covered, too. Not covered: the time a scorer
takes, and code that a scorer's own package runs to generate questions.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from docendo.errors import ModelFailure

_EVALUATES = re.compile(r"\b(?:eval|exec|parse_expr|sympify|parse_latex|S)\(")
# What makes a text dangerous that is not one Python expression: a scorer may cut it or join its lines
# before it evaluates it, and sympy reads factorials and lambdas beyond Python's grammar.
_DANGEROUS = re.compile(r"[!(]|\*\*|lambda|\.\s*[A-Za-z_]")
# Numbers of so many digits that exact arithmetic on them takes for ever: 1e999999.
_HUGE = re.compile(r"[0-9.][eE][-+]?[0-9_]{3,}|[0-9_]{31,}")
_FUNCTIONS = frozenset(
    {"abs", "acos", "asin", "atan", "cos", "cosh", "exp", "ln", "log", "sin", "sinh", "sqrt", "tan"}
)
_NAMES = frozenset({"pi"})
_JSON = frozenset({"true", "false", "null"})
_MOST_CHARACTERS, _MOST_POWER, _MOST_POWERS = 2000, 20, 2
# No task has this as an answer. A scorer that accepts it accepts anything.
_NONSENSE = "no answer at all"
_FULL = 0.99


def judge(dataset: Any, entry: Mapping[str, Any]) -> Callable[[str], float] | None:
    """Returns a safe form of the task's scorer for one entry, or None where comparing texts says it all.

    The base class gives `len(answer) / len(text)` to any text that contains the answer, which passes
    0.99 for long answers: exact comparison replaces it.
    """
    from reasoning_gym.dataset import ProceduralDataset

    if type(dataset).score_answer is ProceduralDataset.score_answer:
        return None
    guarded = evaluates(type(dataset).__module__)

    def call(text: str) -> float:
        text = text.strip()
        if guarded and not is_plain(text):
            raise ModelFailure("the answer is neither a literal nor a plain formula, so it was not evaluated")
        value = float(dataset.score_answer(text, entry))
        if value >= _FULL and float(dataset.score_answer(_NONSENSE, entry)) >= _FULL:
            return 0.0
        return value

    return call


@functools.cache
def evaluates(module: str) -> bool:
    """Whether a task's module evaluates text, so that its scorer needs the guard."""
    try:
        return bool(_EVALUATES.search(inspect.getsource(sys.modules[module])))
    except (OSError, TypeError, KeyError):
        return True


def is_plain(text: str) -> bool:
    """Whether evaluating the text can neither run code nor take unbounded time or memory.

    Example:
        >>> is_plain("(3 + 4) * 2"), is_plain("[[1, 2], [3, 4]]"), is_plain("6*x**2 + sin(x)/2")
        (True, True, True)
        >>> is_plain("__import__('os').getpid()"), is_plain("9**9**9"), is_plain("[0] * 10**10")
        (False, False, False)
    """
    if len(text) > _MOST_CHARACTERS or _HUGE.search(text):
        return False
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return not _DANGEROUS.search(text)
    try:
        return _literal(tree.body) or _formula(tree.body, powers=_MOST_POWERS)
    except RecursionError:
        return False


def _literal(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return not _DANGEROUS.search(node.value)
        return _number(node.value) or node.value is None
    if isinstance(node, ast.Name):
        return node.id in _JSON
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return all(_literal(each) for each in node.elts)
    if isinstance(node, ast.Dict):
        return all(key is not None and _literal(key) for key in node.keys) and all(map(_literal, node.values))
    return isinstance(node, ast.UnaryOp) and _formula(node, powers=0)


def _formula(node: ast.expr, *, powers: int) -> bool:
    if isinstance(node, ast.Constant):
        return _number(node.value)
    if isinstance(node, ast.Name):
        return (len(node.id) == 1 and node.id.isascii()) or node.id in _NAMES
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, (ast.UAdd, ast.USub)) and _formula(node.operand, powers=powers)
    if isinstance(node, ast.Call):
        known = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
        return known and not node.keywords and all(_formula(each, powers=powers) for each in node.args)
    if not isinstance(node, ast.BinOp):
        return False
    if isinstance(node.op, ast.Pow):
        return powers > 0 and _small(node.right) and _formula(node.left, powers=powers - 1)
    operator = isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div))
    return operator and _formula(node.left, powers=powers) and _formula(node.right, powers=powers)


def _small(node: ast.expr) -> bool:
    """Whether an exponent is a small number, a fraction of small numbers, or a name."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _small(node.operand)
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
        # A product of two small numbers is still at most 400.
        return all(
            isinstance(each, (ast.Constant, ast.Name)) and _small(each) for each in (node.left, node.right)
        )
    if isinstance(node, ast.Name):
        return _formula(node, powers=0)
    value = node.value if isinstance(node, ast.Constant) else None
    return isinstance(value, (int, float)) and abs(value) <= _MOST_POWER


def _number(value: object) -> bool:
    return isinstance(value, (int, float))
