"""Tasks of reasoning_gym: generators, their settings, and the levels of their curricula."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from docendo.checks import short
from docendo.errors import ConfigError, DataError
from docendo.evals.items._compact import compact_form, require_compact
from docendo.evals.items._judge import judge
from docendo.evals.items._levels import level_settings
from docendo.evals.items._raw import Raw, Source
from docendo.evals.items._scorer import Answer, normalise
from docendo.evals.items._settled import settle, settled
from docendo.hashing import derive_seed, digest
from docendo.records import Gold, Item, PublicItem

# Item i of a generator uses seed + i, so neighbouring seeds share nearly all items. Chunks of this
# size with seeds far apart stay distinct however many are drawn.
_CHUNK = 512
# They make their questions by running programs of their data in this process, which may write files.
_PROGRAMS = frozenset({"codeio"})


def gym_source(
    name: str,
    config: Mapping[str, Any],
    *,
    level: int | None = None,
    levels: Mapping[str, int] | None = None,
    compact: bool = False,
) -> Source:
    """A generator of reasoning_gym as a source.

    Args:
        name: Name of the generator.
        config: Its settings; they win over those of a level. `run_programs=True` lets `codeio` run what it
            has to run.
        level: A level of its curriculum for all attributes: from the easiest to this one.
        levels: Levels of single attributes.
        compact: Show questions in their shortest form.

    Raises:
        DataError: if there is no such generator, or it has no compact form.
        ConfigError: if a setting or a level is unknown or out of range.
    """
    check_name(name)
    if compact:
        require_compact(name)
    config, allowed = dict(config), {}
    if name in _PROGRAMS:
        allowed = {"run_programs": config.pop("run_programs", False)}
        if allowed["run_programs"] is not True:
            raise ConfigError(
                f"reasoning_gym:{name} runs programs that come with its data, in this process",
                expected="run_programs=True, if they may",
            )
    chosen = level_settings(name, level, levels)
    config = {**chosen, **config}
    try:
        generator = _generator(name, config, seed=0)
    except ConfigError as error:
        if not chosen:
            raise
        # Some curricula have levels that their own generator refuses.
        raise ConfigError(
            error.seen,
            expected=error.expected,
            remedy="take another level, or give the setting itself, which wins over its level",
        ) from error
    # The settings as they are in force, so that another default of a later release shows.
    resolved = {key: value for key, value in plain(dataclasses.asdict(generator.config)).items()
                if key not in ("seed", "size")}  # fmt: skip

    def stream(seed: int) -> Iterator[Raw | None]:
        chunk = 0
        while True:
            start = derive_seed("reasoning_gym", name, resolved, seed, chunk) % 2**31
            dataset = _generator(name, config, seed=start)
            for index in range(_CHUNK):
                try:
                    with settled(type(dataset), start + index):
                        entry = dataset[index]
                except Exception:  # some generators fail on some seeds; the next draw may not
                    yield None
                    continue
                yield _entry(name, dataset, entry, compact=compact)
            chunk += 1

    shown = {**resolved, **allowed, **({"compact": True} if compact else {})}
    return Source(name=name, config=shown, stream=stream, endless=True)


def check_name(name: object) -> None:
    """Refuses a name that no generator has.

    Raises:
        DataError: naming similar ones.
    """
    from reasoning_gym.factory import DATASETS

    if not isinstance(name, str):
        raise DataError(f"the name of a task is {short(name)}", expected="text, such as chain_sum")
    if name == "composite":
        raise DataError(
            "reasoning_gym:composite is not a task of its own",
            remedy="make one task for each part, and mix them",
        )
    if name not in DATASETS:
        names = sorted(set(DATASETS) - {"composite"})
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        raise DataError(
            f"reasoning_gym has no task {short(name)}",
            expected=f"one of its {len(names)} names",
            remedy=f"did you mean {' or '.join(near)}?" if near else "see docendo tasks list",
        )


def _generator(name: str, config: Mapping[str, Any], *, seed: int) -> Any:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    fields = [f.name for f in dataclasses.fields(DATASETS[name][1]) if f.name not in ("seed", "size")]
    for key in config:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.6)
            raise ConfigError(
                f"reasoning_gym:{name} has no setting {key!r}",
                expected=f"one of {', '.join(fields)}",
                remedy=f"did you mean {near[0]}?" if near else None,
            )
    try:
        with settled(DATASETS[name][0], seed):
            return settle(name, reasoning_gym.create_dataset(name, seed=seed, size=_CHUNK, **config))
    except (AssertionError, TypeError, ValueError) as error:
        settings = ", ".join(f"{key}={value!r}" for key, value in config.items())
        raise ConfigError(
            f"reasoning_gym:{name} refuses {settings or 'its defaults'}: {error or type(error).__name__}",
            expected=f"valid values of {', '.join(fields)}",
        ) from error


def _entry(name: str, dataset: Any, entry: Mapping[str, Any], *, compact: bool) -> Raw | None:
    question, answer = entry.get("question"), entry.get("answer")
    if not isinstance(question, str) or not question.strip():
        return None
    if name == "codeio" and answer == "{}":
        return None  # its code failed, so there is nothing to predict
    if compact:
        question = compact_form(name, {**entry["metadata"], "text": question})
    text = None if answer is None else str(answer).strip() or None
    public = PublicItem(
        id=digest("item", name, normalise(question))[:16],
        question=question,
        task=name,
        metadata=_public(question, entry.get("metadata") or {}),
    )
    gold = Answer(text=text, judge=judge(dataset, entry))
    return Raw(item=Item(public=public, gold=Gold(gold)))


def _public(question: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Keeps the facts that cannot give the answer away.

    Most generators put the solution into their metadata. The difficulty holds settings alone, and an
    expression is public if it stands in the question, spaces aside.
    """
    public = {"difficulty": plain(metadata.get("difficulty", {}))}
    expression = metadata.get("expression")
    if isinstance(expression, str) and expression and _bare(expression) in _bare(question):
        public["expression"] = expression
    return public


def _bare(text: str) -> str:
    return "".join(text.split())


def plain(value: Any) -> Any:
    """Turns settings into JSON values (tuples become lists, unknown types their text)."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
