"""Who talks to whom: builders of LangGraph graphs, and the runner that takes them over many items."""

from typing import TYPE_CHECKING

from docendo.lazy import lazy_names

if TYPE_CHECKING:
    from docendo.graphs._blackboard import BlackboardState, blackboard
    from docendo.graphs._checkpoints import checkpointer
    from docendo.graphs._demonstrate import DemonstrationState, demonstrate
    from docendo.graphs._diff import RunDiff, diff_runs
    from docendo.graphs._manage import RunInfo, describe_run, find_run, list_runs
    from docendo.graphs._nodes import Grader, description, node
    from docendo.graphs._prune import Pruned, prune_runs
    from docendo.graphs._refining import RefiningState, generate_verify_refine
    from docendo.graphs._run import Run, arun, run
    from docendo.graphs._sample_and_choose import ChoiceState, sample_and_choose
    from docendo.graphs._standalone import standalone
    from docendo.graphs._state import LargeState
    from docendo.graphs._tutoring import TutoringState, tutoring
    from docendo.graphs.routing._graphs import RoutingState, cascade, route
    from docendo.graphs.routing._switching import SwitchingState, switching
    from docendo.graphs.teaching._choosing import choose
    from docendo.graphs.teaching._course import Course
    from docendo.graphs.teaching._exams import Exam, NearestExam, VariantExam, teaching_score
    from docendo.graphs.teaching._exemplars import (
        ExemplarsState,
        Failure,
        exemplar_refinement,
        read_exemplars,
        with_exemplars,
        write_failures,
    )
    from docendo.graphs.teaching._graph import LbTState, learning_by_teaching
    from docendo.graphs.teaching._learners import Learner, Lesson, Said
    from docendo.graphs.teaching._measures import TeachingMeasures, teaching_measures
    from docendo.graphs.teaching._orders import (
        CurriculumOrder,
        LessonOrder,
        PlannedOrder,
        RandomOrder,
        Standing,
        WeakestOrder,
    )
    from docendo.graphs.teaching._planned import PlannedTutoringState, planned_tutoring
    from docendo.graphs.teaching._tailored import TailoredState, tailored_lessons
    from docendo.graphs.topologies import (
        ClassroomState,
        Controller,
        Coordinator,
        CoordinatorState,
        Crossed,
        Floor,
        Human,
        LongInputState,
        Member,
        ModelController,
        Move,
        Orchestrator,
        Order,
        Reasoner,
        Seeker,
        Speaker,
        TakeTurns,
        TeamState,
        Topology,
        classroom,
        coordinator_worker,
        long_input,
        team,
    )

__all__ = [
    "BlackboardState",
    "BoardItem",
    "BoardSearchItem",
    "BoardStore",
    "ChoiceState",
    "ClassroomState",
    "Controller",
    "Coordinator",
    "CoordinatorState",
    "Course",
    "Crossed",
    "CurriculumOrder",
    "DemonstrationState",
    "Exam",
    "ExemplarsState",
    "Failure",
    "Floor",
    "Grader",
    "Human",
    "LargeState",
    "LbTState",
    "Learner",
    "Lesson",
    "LessonOrder",
    "LongInputState",
    "Member",
    "ModelController",
    "Move",
    "NearestExam",
    "Orchestrator",
    "Order",
    "PlannedOrder",
    "PlannedTutoringState",
    "Pruned",
    "RandomOrder",
    "Reasoner",
    "RefiningState",
    "RoutingState",
    "Run",
    "RunDiff",
    "RunInfo",
    "Said",
    "Seeker",
    "Speaker",
    "Standing",
    "SwitchingState",
    "TailoredState",
    "TakeTurns",
    "TeachingMeasures",
    "TeamState",
    "Topology",
    "TutoringState",
    "VariantExam",
    "WeakestOrder",
    "arun",
    "blackboard",
    "cascade",
    "checkpointer",
    "choose",
    "classroom",
    "coordinator_worker",
    "demonstrate",
    "describe_run",
    "description",
    "diff_runs",
    "exemplar_refinement",
    "find_run",
    "generate_verify_refine",
    "learning_by_teaching",
    "list_runs",
    "long_input",
    "node",
    "planned_tutoring",
    "prune_runs",
    "read_exemplars",
    "route",
    "run",
    "sample_and_choose",
    "standalone",
    "switching",
    "tailored_lessons",
    "teaching_measures",
    "teaching_score",
    "team",
    "tutoring",
    "with_exemplars",
    "write_failures",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "checkpointer": "docendo.graphs._checkpoints",
        **dict.fromkeys(("RunDiff", "diff_runs"), "docendo.graphs._diff"),
        **dict.fromkeys(("RunInfo", "describe_run", "find_run", "list_runs"), "docendo.graphs._manage"),
        **dict.fromkeys(("Pruned", "prune_runs"), "docendo.graphs._prune"),
        "LargeState": "docendo.graphs._state",
        "standalone": "docendo.graphs._standalone",
        **dict.fromkeys(("ChoiceState", "sample_and_choose"), "docendo.graphs._sample_and_choose"),
        **dict.fromkeys(("BlackboardState", "blackboard"), "docendo.graphs._blackboard"),
        **dict.fromkeys(("DemonstrationState", "demonstrate"), "docendo.graphs._demonstrate"),
        **dict.fromkeys(("Grader", "description", "node"), "docendo.graphs._nodes"),
        **dict.fromkeys(("RefiningState", "generate_verify_refine"), "docendo.graphs._refining"),
        **dict.fromkeys(("Run", "arun", "run"), "docendo.graphs._run"),
        **dict.fromkeys(("BoardItem", "BoardSearchItem", "BoardStore"), "docendo.graphs._store"),
        **dict.fromkeys(("TutoringState", "tutoring"), "docendo.graphs._tutoring"),
        **dict.fromkeys(("RoutingState", "cascade", "route"), "docendo.graphs.routing._graphs"),
        **dict.fromkeys(("SwitchingState", "switching"), "docendo.graphs.routing._switching"),
        "choose": "docendo.graphs.teaching._choosing",
        **dict.fromkeys(
            ("Exam", "NearestExam", "VariantExam", "teaching_score"), "docendo.graphs.teaching._exams"
        ),
        **dict.fromkeys(
            (
                "ExemplarsState",
                "Failure",
                "exemplar_refinement",
                "read_exemplars",
                "with_exemplars",
                "write_failures",
            ),
            "docendo.graphs.teaching._exemplars",
        ),
        "Course": "docendo.graphs.teaching._course",
        **dict.fromkeys(("LbTState", "learning_by_teaching"), "docendo.graphs.teaching._graph"),
        **dict.fromkeys(("Learner", "Lesson", "Said"), "docendo.graphs.teaching._learners"),
        **dict.fromkeys(
            (
                "CurriculumOrder",
                "LessonOrder",
                "PlannedOrder",
                "RandomOrder",
                "Standing",
                "WeakestOrder",
            ),
            "docendo.graphs.teaching._orders",
        ),
        **dict.fromkeys(("PlannedTutoringState", "planned_tutoring"), "docendo.graphs.teaching._planned"),
        **dict.fromkeys(("TailoredState", "tailored_lessons"), "docendo.graphs.teaching._tailored"),
        **dict.fromkeys(("TeachingMeasures", "teaching_measures"), "docendo.graphs.teaching._measures"),
        **dict.fromkeys(
            (
                "ClassroomState",
                "Controller",
                "Coordinator",
                "CoordinatorState",
                "Crossed",
                "Order",
                "Move",
                "Floor",
                "Human",
                "LongInputState",
                "Member",
                "ModelController",
                "Orchestrator",
                "Reasoner",
                "Seeker",
                "Speaker",
                "TakeTurns",
                "TeamState",
                "Topology",
                "classroom",
                "coordinator_worker",
                "long_input",
                "team",
            ),
            "docendo.graphs.topologies",
        ),
    },
)
