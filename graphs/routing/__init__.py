"""Routing, cascades and switching: a large model is asked only where it is needed."""

from __future__ import annotations

from docendo.graphs.routing._gate import LargeBudget
from docendo.graphs.routing._graphs import RoutingState, cascade, route
from docendo.graphs.routing._outcomes import CostLedger, LoggedOutcome, log_outcomes
from docendo.graphs.routing._reflective import CheckedSteps, reflective_rows
from docendo.graphs.routing._router import FittedRouter, LengthRouter, RandomRouter, Router, RoutingExample
from docendo.graphs.routing._routers import (
    FactorisationRouter,
    HeadRouter,
    LogisticRouter,
    SimilarityRouter,
)
from docendo.graphs.routing._switch import (
    ALWAYS,
    NEVER,
    BudgetedSwitch,
    Paced,
    Switch,
    Threshold,
    decide_stream,
    threshold_for_share,
    threshold_for_value,
)
from docendo.graphs.routing._switching import SwitchingState, switching
from docendo.graphs.routing._tfidf import TfIdf
from docendo.graphs.routing._uncertainty import (
    AgreementUncertainty,
    LogprobUncertainty,
    RandomUncertainty,
    SmallTurn,
    Uncertainty,
    VerdictUncertainty,
    VerifierUncertainty,
)

__all__ = [
    "ALWAYS",
    "NEVER",
    "AgreementUncertainty",
    "BudgetedSwitch",
    "CheckedSteps",
    "CostLedger",
    "FactorisationRouter",
    "FittedRouter",
    "HeadRouter",
    "LargeBudget",
    "LengthRouter",
    "LoggedOutcome",
    "LogisticRouter",
    "LogprobUncertainty",
    "Paced",
    "RandomRouter",
    "RandomUncertainty",
    "Router",
    "RoutingExample",
    "RoutingState",
    "SimilarityRouter",
    "SmallTurn",
    "Switch",
    "SwitchingState",
    "TfIdf",
    "Threshold",
    "Uncertainty",
    "VerdictUncertainty",
    "VerifierUncertainty",
    "cascade",
    "decide_stream",
    "log_outcomes",
    "reflective_rows",
    "route",
    "switching",
    "threshold_for_share",
    "threshold_for_value",
]
