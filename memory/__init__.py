"""What is shared and kept: the blackboard, the journal of finished calls, traces and runs.

All of it lies in one database (`Database`), and each record carries a digest, so that damage is an error
and never a wrong answer.
"""

from docendo.memory._blackboard import MAX_BODY_BYTES, Blackboard
from docendo.memory._chain import Damage, Report
from docendo.memory._channels import Channel, FieldType, PostKind
from docendo.memory._database import DATABASE, Database
from docendo.memory._journal import Journal
from docendo.memory._keys import Keys, Versioned
from docendo.memory._posts import Hit, Post, Trust
from docendo.memory._runs import RunRow, RunStatus, RunStore
from docendo.memory._streams import stream_posts, stream_traces
from docendo.memory._subscribe import Subscription
from docendo.memory._timeline import TimelineEntry, timeline
from docendo.memory._traces import TraceStore, read_traces
from docendo.memory._verify import count_chained, verify

__all__ = [
    "DATABASE",
    "MAX_BODY_BYTES",
    "Blackboard",
    "Channel",
    "Damage",
    "Database",
    "FieldType",
    "Hit",
    "Journal",
    "Keys",
    "Post",
    "PostKind",
    "Report",
    "RunRow",
    "RunStatus",
    "RunStore",
    "Subscription",
    "TimelineEntry",
    "TraceStore",
    "Trust",
    "Versioned",
    "count_chained",
    "read_traces",
    "stream_posts",
    "stream_traces",
    "timeline",
    "verify",
]
