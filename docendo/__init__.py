"""docendo: local language models that teach each other.

*Docendo discimus*: by teaching, we learn. Public names are imported when they are first used, so that
`import docendo` loads neither torch nor transformers.
"""

import os
from typing import TYPE_CHECKING

from docendo.lazy import lazy_names
from docendo.records import (
    Author,
    Completion,
    Example,
    Item,
    Message,
    Origin,
    PublicItem,
    Request,
    Result,
    SamplingParams,
    ScoreRequest,
    ScoreResult,
    Trace,
    Usage,
)

# OpenMP reads this once, when torch is loaded. By default its threads spin for milliseconds while they
# wait for each other, and as soon as another process wants a core, spinning threads hold up the one that
# works: beside one busy process, decoding measured 2 to 10 times slower. Threads that sleep at once
# (`passive`) halve the speed of training instead. A short spin keeps most of both; `active` is what makes
# libgomp keep to it when it has more threads than cores. A user's own setting wins.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ.update(OMP_WAIT_POLICY="active", GOMP_SPINCOUNT="2000")

if TYPE_CHECKING:
    from docendo import agents, distill, evals, graphs, memory
    from docendo.agents import (
        Agent,
        Engine,
        ModelVerifier,
        OpenAIEngine,
        RunContext,
        ScriptedEngine,
        Student,
        Teacher,
        Tutor,
        Verifier,
    )
    from docendo.graphs import Run, arun, run
    from docendo.memory import Blackboard

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Author",
    "Blackboard",
    "Completion",
    "Engine",
    "Example",
    "Item",
    "Message",
    "ModelVerifier",
    "OpenAIEngine",
    "Origin",
    "PublicItem",
    "Request",
    "Result",
    "Run",
    "RunContext",
    "SamplingParams",
    "ScoreRequest",
    "ScoreResult",
    "ScriptedEngine",
    "Student",
    "Teacher",
    "Trace",
    "Tutor",
    "Usage",
    "Verifier",
    "agents",
    "arun",
    "distill",
    "evals",
    "graphs",
    "memory",
    "run",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(
            (
                "Agent",
                "Engine",
                "ModelVerifier",
                "OpenAIEngine",
                "RunContext",
                "ScriptedEngine",
                "Student",
                "Teacher",
                "Tutor",
                "Verifier",
            ),
            "docendo.agents",
        ),
        **dict.fromkeys(("Run", "arun", "run"), "docendo.graphs"),
        "Blackboard": "docendo.memory",
        **{room: f"docendo.{room}:" for room in ("agents", "distill", "evals", "graphs", "memory")},
    },
)
