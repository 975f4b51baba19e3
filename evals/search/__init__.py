"""Search at test time: worlds whose search trees can be written down, and methods at equal compute."""

from __future__ import annotations

from docendo.evals.search._compute import Attempt, allotted, matched, solved_within
from docendo.evals.search._countdown import Countdown
from docendo.evals.search._sudoku import MiniSudoku
from docendo.evals.search._world import Judged, SearchWorld, WorldScorer

__all__ = [
    "Attempt",
    "Countdown",
    "Judged",
    "MiniSudoku",
    "SearchWorld",
    "WorldScorer",
    "allotted",
    "matched",
    "solved_within",
]
