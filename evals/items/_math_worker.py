"""Compares mathematics in a process of its own, which may be killed: one JSON line in, one out.

Parsing and simplifying can take for ever or all memory on short texts (9^{9^{9^9}}), and math-verify's own
time limit needs signals, which only a main thread has.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from typing import Any

from docendo.evals.items._math_read import differ_in_case, is_letters, is_words, read, words

#: Bytes of address space.
_MEMORY = 2 << 30
#: Digits of a comparison beyond those that the texts can hold.
_MORE_DIGITS = 30


class UnreadableReference(ValueError):
    """The reference answer is no mathematics, so nothing can be compared with it."""


def same(gold: str, answer: str) -> bool:
    """Whether two texts are the same mathematics, or the same words.

    Raises:
        UnreadableReference: if the reference cannot be read.
    """
    from docendo.evals.items._math_equal import equal

    if words(gold) == words(answer):
        return True
    if is_words(gold) or is_words(answer) or (is_letters(gold) and is_letters(answer)):
        return words(gold).casefold() == words(answer).casefold()
    first = _reference(gold)
    second = read(answer)
    digits = len(gold) + len(answer) + _MORE_DIGITS
    return (
        second is not None
        and not differ_in_case(gold, answer)
        and equal(first, second, digits=digits, seed=f"{gold}\n{answer}")
    )


def _reference(gold: str) -> Any:
    try:
        found = read(gold)
    except Exception as error:  # the parser raises of everything
        raise UnreadableReference(gold) from error
    if found is None:
        raise UnreadableReference(gold)
    return found


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
        except UnreadableReference as error:
            said = {"reference": f"the reference {str(error)[:60]!r} cannot be read as mathematics"}
        except MemoryError:
            said = {"error": "it needs more memory than is allowed"}
        except Exception as error:  # the libraries raise of everything
            said = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
