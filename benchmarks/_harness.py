"""What all bars share: alternating measurement, medians of ratios, the JSON line, the facts of the machine.

A bar is a module `benchmarks/<room>/<bar>_<what>.py` with a function `measure(options)` that returns a
`Bar`. `benchmarks/run.py` runs it in a process of its own.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

MODEL = "smollm2-135m-instruct"
LIBRARIES = ("docendo", "torch", "transformers", "peft", "trl", "langgraph", "inspect_ai")

#: One timed run of an arm. It gets the number of the round, -1 for the warm-up, so that it can choose
#: fresh content, and returns a cost: seconds, or seconds per token.
Arm: TypeAlias = "Callable[[int], float]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How thoroughly to measure.

    Attributes:
        quick: One pair and little work: whether a bar runs at all, and no figure.
        pairs: Pairs of measurements, or None for what the bar asks for.
        peers: Whether to measure other contenders as well.
        model: Model to measure with.
    """

    quick: bool = False
    pairs: int | None = None
    peers: bool = True
    model: str = MODEL

    def rounds(self, usual: int = 5) -> int:
        """Pairs to measure."""
        return 1 if self.quick else self.pairs or usual

    def size(self, usual: int, quick: int) -> int:
        """An amount of work."""
        return quick if self.quick else usual


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One figure of a bar: the median of one ratio per pair.

    Attributes:
        name: What is compared.
        target: The bar.
        ratios: One ratio per pair; empty if it could not be measured.
        at_most: Whether the target is an upper limit.
        why: Why it could not be measured.
    """

    name: str
    target: float
    ratios: Sequence[float]
    at_most: bool = False
    why: str = ""

    @property
    def value(self) -> float | None:
        """The median of the ratios."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def passed(self) -> bool:
        """Whether the median reaches the target."""
        if self.value is None:
            return False
        return self.value <= self.target if self.at_most else self.value >= self.target

    @property
    def margin(self) -> float:
        """How far the value is on the good side of the target, as a factor; 0 if it was not measured."""
        if self.value is None:
            return 0.0
        return self.target / self.value if self.at_most else self.value / self.target

    def to_json(self) -> dict[str, Any]:
        """The part as JSON values, with the range of the ratios."""
        facts: dict[str, Any] = {
            "value": _rounded(self.value),
            "target": self.target,
            "at_most": self.at_most,
            "pass": self.passed,
            "ratios": [_rounded(ratio) for ratio in self.ratios],
        }
        return {**facts, "why": self.why} if self.why else facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What a bar's `measure` returns.

    Attributes:
        name: For example P1.
        parts: Its figures, at least one.
        peers: Other contenders: their ratio in the first part's terms, or why there is none.
        detail: Whatever else is worth recording: the work, the seconds.
    """

    name: str
    parts: Sequence[Part]
    peers: Mapping[str, Any] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)

    def line(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON line. Its value and target are those of the part that is nearest to missing."""
        worst = min(self.parts, key=lambda part: part.margin)
        return {
            "bar": self.name,
            "value": _rounded(worst.value),
            "target": worst.target,
            "pass": all(part.passed for part in self.parts),
            "detail": {
                "parts": {part.name: part.to_json() for part in self.parts},
                "peers": dict(self.peers),
                **self.detail,
                "machine": dict(facts),
            },
        }


def alternate(
    arms: Mapping[str, Arm], *, rounds: int, rare: Mapping[str, Arm] | None = None, rare_rounds: int = 2
) -> dict[str, list[float]]:
    """Times all arms once per round, after one warm-up each, and every second round in reverse order.

    `rare` arms are the slow ones: they run, without warm-up, at the end of the first `rare_rounds` rounds.

    Returns:
        The cost of each arm in each round.
    """
    costs: dict[str, list[float]] = {name: [] for name in (*arms, *(rare or {}))}
    for arm in arms.values():
        arm(-1)
    for number in range(rounds):
        names = list(arms) if number % 2 == 0 else list(reversed(arms))
        for name in names:
            gc.collect()
            costs[name].append(arms[name](number))
        for name, arm in (rare or {}).items():
            if number < rare_rounds:
                gc.collect()
                costs[name].append(arm(number))
    return costs


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """One ratio per round, as far as both go."""
    return [a / b for a, b in zip(over, under, strict=False)]


def against(costs: Mapping[str, Sequence[float]], reference: str, names: Sequence[str]) -> dict[str, Any]:
    """Ratios of peers (reference over peer, 1 is as fast as the reference), the better of their rounds."""
    return {name: _rounded(max(ratios(costs[reference], costs[name]))) for name in names if costs[name]}


def shown(costs: Mapping[str, Sequence[float]], digits: int = 3) -> dict[str, list[float]]:
    """Costs as they are recorded."""
    return {name: [round(cost, digits) for cost in row] for name, row in costs.items()}


def seconds(work: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def machine(**more: Any) -> dict[str, Any]:
    """What the figures depend on besides the code. `more` are facts of the bar, such as the precision."""
    facts: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": [round(one, 2) for one in os.getloadavg()],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "commit": _commit(),
        "openmp": {
            name: os.environ[name] for name in sorted(os.environ) if name.startswith(("OMP_", "GOMP_"))
        },
    }
    for library in LIBRARIES:
        try:
            facts[library] = version(library)
        except PackageNotFoundError:
            continue
    return {**facts, **_threads(), **more}


def _threads() -> dict[str, Any]:
    """Threads of torch, which must be the same for the thread of the engine and that of the reference."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    seen: list[int] = []
    probe = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    probe.start()
    probe.join()
    if seen != [torch.get_num_threads()]:
        raise SystemExit(f"torch has {torch.get_num_threads()} threads here and {seen[0]} in a new thread")
    return {"threads": seen[0]}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
