"""What is shared and kept: the blackboard, the journal of finished calls, traces and runs.

All of it lies in one database (`Database`), and each record carries a digest, so that damage is an error
and never a wrong answer.
"""

from docendo.memory._verify import count_chained, verify
from docendo.memory.board._artifacts import Artifact, Artifacts
from docendo.memory.board._blackboard import MAX_BODY_BYTES, Blackboard
from docendo.memory.board._channels import Channel, FieldType, PostKind
from docendo.memory.board._keys import Keys, Versioned
from docendo.memory.board._posts import Hit, Post, Trust
from docendo.memory.board._subscribe import Subscription
from docendo.memory.board._taint import Taint
from docendo.memory.board._trust import TrustEvent
from docendo.memory.board._vectors import Embedder, VectorIndex
from docendo.memory.board._view import BoardView
from docendo.memory.memories._budget import Budget, Entry
from docendo.memory.memories._causal import CausalMemory, Trial
from docendo.memory.memories._causal_text import CausalStatement, TrialStep
from docendo.memory.memories._distiller import Case, Scenario, StrategyDistiller
from docendo.memory.memories._episodic import EpisodicMemory, EpisodicWeights
from docendo.memory.memories._fulltext import FullTextMemory
from docendo.memory.memories._fusion import CalibratedFusion, Fusion, Judged, Platt, ReciprocalRank, ndcg
from docendo.memory.memories._graph import GraphMemory
from docendo.memory.memories._graph_state import Edge, Node, SubGraph
from docendo.memory.memories._lessons import KnowledgeBase
from docendo.memory.memories._mastery import Mastery, MasteryTracker
from docendo.memory.memories._memory import BoardMemory, Memory
from docendo.memory.memories._messages import MessageBoard, StructuredMessage
from docendo.memory.memories._notes import Note, Notes
from docendo.memory.memories._planner import LearningPath, LearningPlan, PathPlanner, StepCost
from docendo.memory.memories._recall import recall
from docendo.memory.memories._strategies import ShuffledLibrary, Strategy, StrategyLibrary
from docendo.memory.memories._tracing import Tracing
from docendo.memory.memories._two_stage import Reranker, TwoStageRetriever
from docendo.memory.memories._vector import VectorMemory
from docendo.memory.memories._window import WindowMemory
from docendo.memory.requests._requests import LEASE, Requests
from docendo.memory.requests._wanted import BoardRequest, Claim, Outcome, Response
from docendo.memory.runs._journal import Journal
from docendo.memory.runs._origin import launched
from docendo.memory.runs._pruning import Removed, copy_journal, prune
from docendo.memory.runs._runs import UNSET, RunRow, RunStatus, RunStore, differences
from docendo.memory.runs._streams import stream_posts, stream_traces
from docendo.memory.runs._timeline import TimelineEntry, timeline
from docendo.memory.runs._traces import TraceStore, read_traces
from docendo.memory.storage._chain import Damage, Report
from docendo.memory.storage._database import DATABASE, Database

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
