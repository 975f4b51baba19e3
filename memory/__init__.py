"""What is shared and kept: the blackboard, the journal of finished calls, traces and runs.

All of it lies in one database (`Database`), and each record carries a digest, so that damage is an error
and never a wrong answer.
"""

from docendo.memory._artifacts import Artifact, Artifacts
from docendo.memory._blackboard import MAX_BODY_BYTES, Blackboard
from docendo.memory._budget import Budget, Entry
from docendo.memory._causal import CausalMemory, Trial
from docendo.memory._causal_text import CausalStatement, TrialStep
from docendo.memory._chain import Damage, Report
from docendo.memory._channels import Channel, FieldType, PostKind
from docendo.memory._database import DATABASE, Database
from docendo.memory._distiller import Case, Scenario, StrategyDistiller
from docendo.memory._episodic import EpisodicMemory, EpisodicWeights
from docendo.memory._fulltext import FullTextMemory
from docendo.memory._fusion import CalibratedFusion, Fusion, Judged, Platt, ReciprocalRank, ndcg
from docendo.memory._graph import GraphMemory
from docendo.memory._graph_state import Edge, Node, SubGraph
from docendo.memory._journal import Journal
from docendo.memory._keys import Keys, Versioned
from docendo.memory._lessons import KnowledgeBase
from docendo.memory._mastery import Mastery, MasteryTracker
from docendo.memory._memory import BoardMemory, Memory
from docendo.memory._messages import MessageBoard, StructuredMessage
from docendo.memory._notes import Note, Notes
from docendo.memory._origin import launched
from docendo.memory._planner import LearningPath, LearningPlan, PathPlanner, StepCost
from docendo.memory._posts import Hit, Post, Trust
from docendo.memory._pruning import Removed, copy_journal, prune
from docendo.memory._recall import recall
from docendo.memory._requests import LEASE, Requests
from docendo.memory._runs import UNSET, RunRow, RunStatus, RunStore, differences
from docendo.memory._strategies import ShuffledLibrary, Strategy, StrategyLibrary
from docendo.memory._streams import stream_posts, stream_traces
from docendo.memory._subscribe import Subscription
from docendo.memory._taint import Taint
from docendo.memory._timeline import TimelineEntry, timeline
from docendo.memory._traces import TraceStore, read_traces
from docendo.memory._tracing import Tracing
from docendo.memory._trust import TrustEvent
from docendo.memory._two_stage import Reranker, TwoStageRetriever
from docendo.memory._vectors import Embedder, VectorIndex, VectorMemory
from docendo.memory._verify import count_chained, verify
from docendo.memory._view import BoardView
from docendo.memory._wanted import BoardRequest, Claim, Outcome, Response
from docendo.memory._window import WindowMemory

__all__ = [
    "DATABASE",
    "LEASE",
    "MAX_BODY_BYTES",
    "UNSET",
    "Artifact",
    "Artifacts",
    "Blackboard",
    "BoardMemory",
    "BoardRequest",
    "BoardView",
    "Budget",
    "CalibratedFusion",
    "Case",
    "CausalMemory",
    "CausalStatement",
    "Channel",
    "Claim",
    "Damage",
    "Database",
    "Edge",
    "Embedder",
    "Entry",
    "EpisodicMemory",
    "EpisodicWeights",
    "FieldType",
    "FullTextMemory",
    "Fusion",
    "GraphMemory",
    "Hit",
    "Journal",
    "Judged",
    "Keys",
    "KnowledgeBase",
    "LearningPath",
    "LearningPlan",
    "Mastery",
    "MasteryTracker",
    "Memory",
    "MessageBoard",
    "Node",
    "Note",
    "Notes",
    "Outcome",
    "PathPlanner",
    "Platt",
    "Post",
    "PostKind",
    "ReciprocalRank",
    "Removed",
    "Report",
    "Requests",
    "Reranker",
    "Response",
    "RunRow",
    "RunStatus",
    "RunStore",
    "Scenario",
    "ShuffledLibrary",
    "StepCost",
    "Strategy",
    "StrategyDistiller",
    "StrategyLibrary",
    "StructuredMessage",
    "SubGraph",
    "Subscription",
    "Taint",
    "TimelineEntry",
    "TraceStore",
    "Tracing",
    "Trial",
    "TrialStep",
    "Trust",
    "TrustEvent",
    "TwoStageRetriever",
    "VectorIndex",
    "VectorMemory",
    "Versioned",
    "WindowMemory",
    "copy_journal",
    "count_chained",
    "differences",
    "launched",
    "ndcg",
    "prune",
    "read_traces",
    "recall",
    "stream_posts",
    "stream_traces",
    "timeline",
    "verify",
]
