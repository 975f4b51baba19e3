"""What is shared and kept: the blackboard, the journal of finished calls, traces and runs.

All of it lies in one database (`Database`), and each record carries a digest, so that damage is an error
and never a wrong answer.
"""

from docendo.memory._blackboard import MAX_BODY_BYTES, Blackboard
from docendo.memory._budget import Budget, Entry
from docendo.memory._chain import Damage, Report
from docendo.memory._channels import Channel, FieldType, PostKind
from docendo.memory._database import DATABASE, Database
from docendo.memory._episodic import EpisodicMemory, EpisodicWeights
from docendo.memory._fulltext import FullTextMemory
from docendo.memory._fusion import CalibratedFusion, Fusion, Judged, Platt, ReciprocalRank, ndcg
from docendo.memory._journal import Journal
from docendo.memory._keys import Keys, Versioned
from docendo.memory._lessons import KnowledgeBase
from docendo.memory._memory import BoardMemory, Memory
from docendo.memory._notes import Note, Notes
from docendo.memory._posts import Hit, Post, Trust
from docendo.memory._recall import recall
from docendo.memory._requests import LEASE, Requests
from docendo.memory._runs import RunRow, RunStatus, RunStore
from docendo.memory._subscribe import Subscription
from docendo.memory._traces import TraceStore, read_traces
from docendo.memory._two_stage import Reranker, TwoStageRetriever
from docendo.memory._vectors import Embedder, VectorIndex, VectorMemory
from docendo.memory._verify import verify
from docendo.memory._wanted import BoardRequest, Claim, Outcome, Response
from docendo.memory._window import WindowMemory

__all__ = [
    "DATABASE",
    "LEASE",
    "MAX_BODY_BYTES",
    "Blackboard",
    "BoardMemory",
    "BoardRequest",
    "Budget",
    "CalibratedFusion",
    "Channel",
    "Claim",
    "Damage",
    "Database",
    "Embedder",
    "Entry",
    "EpisodicMemory",
    "EpisodicWeights",
    "FieldType",
    "FullTextMemory",
    "Fusion",
    "Hit",
    "Journal",
    "Judged",
    "Keys",
    "KnowledgeBase",
    "Memory",
    "Note",
    "Notes",
    "Outcome",
    "Platt",
    "Post",
    "PostKind",
    "ReciprocalRank",
    "Report",
    "Requests",
    "Reranker",
    "Response",
    "RunRow",
    "RunStatus",
    "RunStore",
    "Subscription",
    "TraceStore",
    "Trust",
    "TwoStageRetriever",
    "VectorIndex",
    "VectorMemory",
    "Versioned",
    "WindowMemory",
    "ndcg",
    "read_traces",
    "recall",
    "verify",
]
