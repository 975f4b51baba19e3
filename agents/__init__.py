"""Who acts: engines that run models, and the roles that speak through them."""

from typing import TYPE_CHECKING

from docendo.lazy import lazy_names

if TYPE_CHECKING:
    from docendo.agents import _models as models
    from docendo.agents._analytic import AnalyticHead
    from docendo.agents._analytic_verifier import AnalyticVerifier
    from docendo.agents._asker import Asker, Decision
    from docendo.agents._chat_model_engine import ChatModelEngine
    from docendo.agents._context import RunContext, Turn
    from docendo.agents._embedders import EngineEmbedder, SentenceEmbedder
    from docendo.agents._engine import Engine
    from docendo.agents._flops import FlopsModel
    from docendo.agents._langchain import ChatDocendo
    from docendo.agents._open import open_engine
    from docendo.agents._openai import OpenAIEngine
    from docendo.agents._protocol import EngineProtocol
    from docendo.agents._rerankers import EngineReranker, LikelihoodReranker
    from docendo.agents._roles import Agent, ModelVerifier, Student, Teacher, Tutor, Verdict, Verifier
    from docendo.agents._scripted import ScriptedEngine
    from docendo.agents._telemetry import instrument
    from docendo.agents._tiny import tiny_model
    from docendo.agents._volunteer import NoteKeeper, Volunteer, calibrate, volunteers
    from docendo.agents._work import Worker

__all__ = [
    "Agent",
    "AnalyticHead",
    "AnalyticVerifier",
    "Asker",
    "ChatDocendo",
    "ChatModelEngine",
    "Decision",
    "Engine",
    "EngineEmbedder",
    "EngineProtocol",
    "EngineReranker",
    "FlopsModel",
    "LikelihoodReranker",
    "ModelVerifier",
    "NoteKeeper",
    "OpenAIEngine",
    "RunContext",
    "ScriptedEngine",
    "SentenceEmbedder",
    "Student",
    "Teacher",
    "Turn",
    "Tutor",
    "Verdict",
    "Verifier",
    "Volunteer",
    "Worker",
    "calibrate",
    "instrument",
    "models",
    "open_engine",
    "tiny_model",
    "volunteers",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(("RunContext", "Turn"), "docendo.agents._context"),
        **dict.fromkeys(
            ("Agent", "ModelVerifier", "Student", "Teacher", "Tutor", "Verdict", "Verifier"),
            "docendo.agents._roles",
        ),
        **dict.fromkeys(("EngineEmbedder", "SentenceEmbedder"), "docendo.agents._embedders"),
        **dict.fromkeys(("Asker", "Decision"), "docendo.agents._asker"),
        **dict.fromkeys(("NoteKeeper", "Volunteer", "calibrate", "volunteers"), "docendo.agents._volunteer"),
        "AnalyticHead": "docendo.agents._analytic",
        "AnalyticVerifier": "docendo.agents._analytic_verifier",
        "Worker": "docendo.agents._work",
        "ChatDocendo": "docendo.agents._langchain",
        "ChatModelEngine": "docendo.agents._chat_model_engine",
        "Engine": "docendo.agents._engine",
        "EngineProtocol": "docendo.agents._protocol",
        **dict.fromkeys(("EngineReranker", "LikelihoodReranker"), "docendo.agents._rerankers"),
        "OpenAIEngine": "docendo.agents._openai",
        "ScriptedEngine": "docendo.agents._scripted",
        "FlopsModel": "docendo.agents._flops",
        "instrument": "docendo.agents._telemetry",
        "models": "docendo.agents._models:",
        "open_engine": "docendo.agents._open",
        "tiny_model": "docendo.agents._tiny",
    },
)
