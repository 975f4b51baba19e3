"""Compares mathematics in a process of its own, which may be killed: one JSON line in, one out.

Parsing and simplifying can take for ever or all memory on short texts (9^{9^{9^9}}), and its library's own
time limit needs signals, which only a main thread has.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from typing import Any

#: Bytes of address space.
_MEMORY = 2 << 30
# As many digits as a double has: 0.333333 is not 1/3.
_DIGITS = 15


def same(gold: str, answer: str) -> bool:
    """Whether two texts are the same mathematics."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    # Of a text with several readings the boxed one counts, then LaTeX, then plain expressions.
    readings = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    first, second = (
        parse(
            text if "$" in text else f"${text}$",
            extraction_config=readings,
            parsing_timeout=None,
            raise_on_error=True,
        )
        for text in (gold, answer)
    )
    if not first:
        raise ValueError(f"the reference {gold[:60]!r} cannot be read as mathematics")
    return bool(
        verify(
            first,
            second,
            float_rounding=_DIGITS,
            numeric_precision=_DIGITS,
            strict=True,
            timeout_seconds=None,
            raise_on_error=True,
        )
    )


def main() -> None:
    """Serves until its input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        said: dict[str, Any]
        try:
            said = {"same": same(*json.loads(line))}
        except MemoryError:
            said = {"error": "it needs more memory than is allowed"}
        except Exception as error:  # the libraries raise of everything
            said = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
