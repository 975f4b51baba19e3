"""Who talks to whom: builders of LangGraph graphs, and the runner that takes them over many items."""

from typing import TYPE_CHECKING

from docendo.lazy import lazy_names

if TYPE_CHECKING:
    from docendo.graphs._demonstrate import DemonstrationState, demonstrate
    from docendo.graphs._nodes import Grader, description, node
    from docendo.graphs._run import Run, arun, run
    from docendo.graphs._store import BoardItem, BoardSearchItem, BoardStore
    from docendo.graphs._tutoring import TutoringState, tutoring

__all__ = [
    "BoardItem",
    "BoardSearchItem",
    "BoardStore",
    "DemonstrationState",
    "Grader",
    "Run",
    "TutoringState",
    "arun",
    "demonstrate",
    "description",
    "node",
    "run",
    "tutoring",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(("DemonstrationState", "demonstrate"), "docendo.graphs._demonstrate"),
        **dict.fromkeys(("Grader", "description", "node"), "docendo.graphs._nodes"),
        **dict.fromkeys(("Run", "arun", "run"), "docendo.graphs._run"),
        **dict.fromkeys(("BoardItem", "BoardSearchItem", "BoardStore"), "docendo.graphs._store"),
        **dict.fromkeys(("TutoringState", "tutoring"), "docendo.graphs._tutoring"),
    },
)
