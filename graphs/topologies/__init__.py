"""Topologies: teams, a classroom, a coordinator with a worker and a person, seekers in long input."""

from docendo.graphs.topologies._classroom import (
    NEXT,
    STOP,
    USER,
    ClassroomState,
    Controller,
    Floor,
    ModelController,
    Speaker,
    TakeTurns,
    classroom,
)
from docendo.graphs.topologies._coordinator import Coordinator, CoordinatorState, Move, coordinator_worker
from docendo.graphs.topologies._delivery import Crossed
from docendo.graphs.topologies._human import Human
from docendo.graphs.topologies._long_input import LongInputState, Reasoner, Seeker, long_input
from docendo.graphs.topologies._members import Member, Orchestrator, Order, vote
from docendo.graphs.topologies._team import TeamState, Topology, team

__all__ = [
    "NEXT",
    "STOP",
    "USER",
    "ClassroomState",
    "Controller",
    "Coordinator",
    "CoordinatorState",
    "Crossed",
    "Floor",
    "Human",
    "LongInputState",
    "Member",
    "ModelController",
    "Move",
    "Orchestrator",
    "Order",
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
    "vote",
]
