"""Who talks to whom: builders of LangGraph graphs, and the runner that takes them over many items."""

from typing import TYPE_CHECKING

from docendo.lazy import lazy_names

if TYPE_CHECKING:
    from docendo.graphs._blackboard import BlackboardState, blackboard
    from docendo.graphs._demonstrate import DemonstrationState, demonstrate
    from docendo.graphs._nodes import Grader, description, node
    from docendo.graphs._run import Run, arun, run
    from docendo.graphs._tutoring import TutoringState, tutoring

__all__ = [
    "BlackboardState",
    "DemonstrationState",
    "Grader",
    "Run",
    "TutoringState",
    "arun",
    "blackboard",
    "demonstrate",
    "description",
    "node",
    "run",
    "tutoring",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(("BlackboardState", "blackboard"), "docendo.graphs._blackboard"),
        **dict.fromkeys(("DemonstrationState", "demonstrate"), "docendo.graphs._demonstrate"),
        **dict.fromkeys(("Grader", "description", "node"), "docendo.graphs._nodes"),
        **dict.fromkeys(("Run", "arun", "run"), "docendo.graphs._run"),
        **dict.fromkeys(("TutoringState", "tutoring"), "docendo.graphs._tutoring"),
    },
)
