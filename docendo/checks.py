"""Questions to settings before they are compared, so that a wrong type is a clear error."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, TypeGuard


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number (True and False are not).

    Example:
        >>> is_count(3), is_count(3.0), is_count(True), is_count("3")
        (True, False, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number (True and False are not).

    Example:
        >>> is_number(0.5), is_number(3), is_number(float("nan")), is_number("0.5")
        (True, True, False, False)
    """
    given: object = value
    return isinstance(value, Real) and not isinstance(given, bool) and math.isfinite(value)
