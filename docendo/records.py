"""The records that all rooms share: what is asked of an engine, what it answers, what is learnt from.

Records are frozen dataclasses with keyword-only fields. They hold plain JSON values, so they can be
stored, hashed and compared; `to_json` and `from_json` convert without loss.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, Self, TypeAlias, TypedDict, get_args

from docendo.checks import is_count, is_number
from docendo.errors import CapabilityError, ConfigError, DataError

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

FinishReason = Literal["stop", "length"]
Determinism = Literal["none", "seeded", "invariant"]
GrammarKind = Literal["json_schema", "regex", "choice"]
Feature = Literal[
    "score",
    "adapters",
    "messages",
    "token_prompts",
    "tools",
    "n",
    "stream",
    "pause",
    "seed",
    "top_k",
    "min_p",
    "repetition_penalty",
    "stop_token_ids",
    "top_logprobs",
    "prompt_logprobs",
    "json_schema",
    "regex",
    "choice",
]
Split = Literal["train", "dev", "test", "user"]


class Message(TypedDict):
    """One chat message, in the shape of Hugging Face chat templates and TRL datasets.

    The optional keys are those of tool calling: `tool_calls` of an assistant message, and the
    `tool_call_id` and `name` of the tool message that answers one.
    """

    role: str
    content: str
    name: NotRequired[str]
    tool_calls: NotRequired[Sequence[Mapping[str, Any]]]
    tool_call_id: NotRequired[str]


class Record:
    """Mix-in: conversion to and from plain JSON dictionaries."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the record as a dictionary of JSON values (tuples become lists)."""
        return _plain(dataclasses.asdict(self))  # type: ignore[call-overload]

    def replace(self, **changes: Any) -> Self:
        """Returns a copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


#: Most alternatives per position that can be asked for; OpenAI's limit.
MAX_TOP_LOGPROBS = 20
_SAMPLING_FEATURES: tuple[Literal["top_k", "min_p"], ...] = ("top_k", "min_p")
_REQUEST_FEATURES: tuple[Literal["stop_token_ids", "top_logprobs", "prompt_logprobs"], ...] = (
    "stop_token_ids",
    "top_logprobs",
    "prompt_logprobs",
)
_RARE = ("stop_token_ids", "ignore_eos", "top_logprobs", "prompt_logprobs", "grammar")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar(Record):
    """What a completion is constrained to. Made by `json_schema`, `regex` or `choice`.

    Attributes:
        kind: The kind of constraint.
        spec: A JSON schema as JSON text, a pattern, or the choices as a JSON list.

    Example:
        >>> Grammar.choice(["yes", "no"]).spec
        '["yes", "no"]'
    """

    kind: GrammarKind
    spec: str

    def __post_init__(self) -> None:
        """Checks the kind and that the specification is text."""
        if self.kind not in get_args(GrammarKind):
            raise ConfigError(
                f"grammar.kind is {self.kind!r}", expected=f"one of {', '.join(get_args(GrammarKind))}"
            )

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any]) -> Self:
        """JSON text that satisfies a schema. Properties are written in the schema's order."""
        try:
            return cls(kind="json_schema", spec=json.dumps(schema))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"the schema cannot be written as JSON ({error})", expected="JSON values"
            ) from None

    @classmethod
    def regex(cls, pattern: str) -> Self:
        """Text that a regular expression matches as a whole."""
        if not pattern:
            raise ConfigError("the regular expression is empty", expected="a pattern such as [0-9]+")
        return cls(kind="regex", spec=pattern)

    @classmethod
    def choice(cls, choices: Sequence[str]) -> Self:
        """Exactly one of the given texts."""
        if isinstance(choices, str) or not choices or not all(choices):
            raise ConfigError(f"the choices are {choices!r}", expected="texts that are not empty")
        return cls(kind="choice", spec=json.dumps(list(choices)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams(Record):
    """How one request is decoded. Names and meanings follow vLLM's class of the same name.

    Attributes:
        max_tokens: Most tokens to generate, at least 1.
        temperature: 0 decodes greedily (the default: the same answer each time).
        top_k: Keep the k likeliest tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens with this probability; 1 keeps all.
        min_p: Drop tokens less likely than this share of the likeliest; 0 keeps all.
        repetition_penalty: Divides the logits of tokens already seen (CTRL, arXiv 1909.05858); 1 is off.
        seed: Seed of this request, or None for one derived from the prompt, so that it repeats as well.
        stop: Strings that end the text; the text excludes them.
        n: Number of samples that share one prefill.
        stop_token_ids: Further tokens that end a completion, as the model's own end tokens do.
        ignore_eos: Whether the model's own end tokens do not end a completion.
        top_logprobs: How many of the likeliest tokens of each position to return; 0 returns the chosen one's.
        prompt_logprobs: Whether to return the log-probabilities of the prompt's tokens as well.
        grammar: What the text is constrained to, or None.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        """Checks ranges, so that a bad value fails where it is written and not in a batch."""
        stop: object = self.stop  # untyped callers give a string, which would count as its letters
        if isinstance(stop, str):
            raise ConfigError(
                f"stop is the string {stop!r}", expected="a tuple of strings", remedy="write (text,)"
            )
        for name in ("stop", "stop_token_ids"):
            if not isinstance(getattr(self, name), Iterable):
                raise ConfigError(f"{name} is {getattr(self, name)!r}", expected="a tuple")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        penalty, top = self.repetition_penalty, self.top_logprobs
        checks = (
            ("max_tokens", is_count(self.max_tokens) and self.max_tokens >= 1, "at least 1"),
            ("temperature", is_number(self.temperature) and self.temperature >= 0, "0 or more"),
            ("top_k", is_count(self.top_k) and self.top_k >= 0, "0 (off) or more"),
            ("top_p", is_number(self.top_p) and 0 < self.top_p <= 1, "more than 0 and at most 1"),
            ("min_p", is_number(self.min_p) and 0 <= self.min_p < 1, "0 (off) or more and less than 1"),
            ("repetition_penalty", is_number(penalty) and penalty > 0, "more than 0"),
            ("seed", self.seed is None or is_count(self.seed), "a whole number or None"),
            ("n", is_count(self.n) and self.n >= 1, "at least 1"),
            ("stop", all(isinstance(text, str) and text for text in self.stop), "strings that are not empty"),
            (
                "stop_token_ids",
                all(is_count(token) and token >= 0 for token in self.stop_token_ids),
                "token ids",
            ),
            ("top_logprobs", is_count(top) and 0 <= top <= MAX_TOP_LOGPROBS, f"0 to {MAX_TOP_LOGPROBS}"),
            ("grammar", self.grammar is None or isinstance(self.grammar, Grammar), "a Grammar or None"),
        )
        for name, good, expected in checks:
            if not good:
                raise ConfigError(f"{name} is {getattr(self, name)!r}", expected=expected)

    def needs(self) -> frozenset[Feature]:
        """What an engine must offer to honour these settings (`Capabilities.features`)."""
        found: set[Feature] = {self.grammar.kind} if self.grammar else set()
        if self.n > 1:
            found.add("n")
        if not self.greedy:
            found |= {name for name in _SAMPLING_FEATURES if getattr(self, name)}
        if self.repetition_penalty != 1.0:
            found.add("repetition_penalty")
        found |= {name for name in _REQUEST_FEATURES if getattr(self, name)}
        return frozenset(found)

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as JSON values. Those beyond the basic ones only where they are set.

        So that what is stored and hashed does not change when a setting is added.
        """
        plain = Record.to_json(self)
        return {
            name: value
            for name, value in plain.items()
            if name not in _RARE or value not in (None, False, 0, [])
        }

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken at every step."""
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin(Record):
    """Who asks: the engine's ledger counts tokens and seconds by these names."""

    run: str = ""
    role: str = ""
    agent: str = ""
    node: str = ""
    item: str = ""


def _check_prompt(name: str, value: object) -> None:
    if not isinstance(value, Sequence):
        raise ConfigError(
            f"the {name} is {value!r}", expected="text, token ids, or chat messages in a prompt"
        )


def _check_timeout(timeout: object) -> None:
    if timeout is not None and not (is_number(timeout) and timeout > 0):
        raise ConfigError(f"timeout is {timeout!r}", expected="seconds, more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Record):
    """One generation request.

    Attributes:
        prompt: Text, chat messages (rendered with the model's template), or token ids.
        sampling: Decoding settings of this request alone.
        adapter: Name of a loaded adapter, or None for the base model.
        origin: Who asks, for the ledger.
        tools: JSON schemas of tools that the chat template shows to the model (OpenAI's shape).
        priority: Requests with a lower number are taken first, as in vLLM; equal ones in order of arrival.
        timeout: Seconds from submission after which it fails with `DeadlineExceeded`, or None.
    """

    prompt: str | tuple[Message, ...] | tuple[int, ...]
    sampling: SamplingParams = SamplingParams()
    adapter: str | None = None
    origin: Origin = Origin()
    tools: tuple[Mapping[str, Any], ...] = ()
    priority: int = 0
    timeout: float | None = None

    def __post_init__(self) -> None:
        """Checks what every engine would stumble over."""
        if not isinstance(self.sampling, SamplingParams):
            raise ConfigError(f"sampling is {self.sampling!r}", expected="a SamplingParams")
        _check_prompt("prompt", self.prompt)
        _check_timeout(self.timeout)

    def needs(self) -> frozenset[Feature]:
        """What an engine must offer to answer it: that of its prompt, tools, adapter and sampling."""
        found: set[Feature] = set(self.sampling.needs())
        if self.prompt and not isinstance(self.prompt, str):
            found.add("token_prompts" if isinstance(self.prompt[0], int) else "messages")
        if self.tools:
            found.add("tools")
        if self.adapter is not None:
            found.add("adapters")
        return frozenset(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest(Record):
    """Asks for the log-probabilities of a given completion.

    Attributes:
        prompt: Text, chat messages or token ids that come before.
        completion: Text or token ids whose log-probabilities are wanted.
        adapter: Name of a loaded adapter, or None for the base model.
        origin: Who asks, for the ledger.
        priority: As in `Request`.
        timeout: As in `Request`.
    """

    prompt: str | tuple[Message, ...] | tuple[int, ...]
    completion: str | tuple[int, ...]
    adapter: str | None = None
    origin: Origin = Origin()
    priority: int = 0
    timeout: float | None = None

    def __post_init__(self) -> None:
        """Checks what every engine would stumble over."""
        _check_prompt("prompt", self.prompt)
        _check_prompt("completion", self.completion)
        _check_timeout(self.timeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Record):
    """Token counts without padding. `cached_tokens` of `prompt_tokens` came from a stored prefix."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            generated_tokens=self.generated_tokens + other.generated_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion(Record):
    """One sample: its text (without stop string and end token), token ids and their log-probabilities.

    `token_ids` holds every generated token, the end token included. `logprobs` are natural logarithms
    under the model's own distribution, before temperature, filters and grammar. `top_logprobs` holds, for
    each position, the likeliest tokens as (token id, log-probability), if they were asked for.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish_reason: FinishReason = "stop"
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk(Record):
    """A piece of a streamed completion.

    Attributes:
        text: Text that has become certain: never half a character, never the beginning of a stop string.
        index: Which of the `n` samples it belongs to.
        token_ids: The tokens since the last chunk of this sample.
        logprobs: Their log-probabilities.
        finish_reason: Set on the last chunk of a sample.
        usage: Tokens of the whole request, on its very last chunk; None if the engine does not know them.
    """

    text: str
    index: int = 0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Record):
    """What an engine returns for a `Request`.

    Attributes:
        completions: `sampling.n` samples.
        usage: Tokens of this request; the prompt counts once however many samples share it.
        model: Fingerprint of the base model.
        adapter: SHA-256 of the adapter that answered, or None for the base.
        seed: The seed that was used.
        seconds: Compute seconds: the time of each pass is shared by its tokens, so that the
            seconds of all results add up to the time the engine was busy.
        latency: Wall seconds from submission to the last token.
        queued: Wall seconds from submission to the first computation.
        first_token: Wall seconds from submission to the first token.
        flops: Estimated floating-point operations; 0 where the engine does not know the model.
        prompt_token_ids: The prompt's tokens, if `prompt_logprobs` was set.
        prompt_logprobs: Log-probability of each prompt token given those before it; None for the first.
    """

    completions: tuple[Completion, ...]
    usage: Usage = Usage()
    model: str = ""
    adapter: str | None = None
    seed: int = 0
    seconds: float = 0.0
    latency: float = 0.0
    queued: float = 0.0
    first_token: float = 0.0
    flops: float = 0.0
    prompt_token_ids: tuple[int, ...] = ()
    prompt_logprobs: tuple[float | None, ...] = ()

    @property
    def text(self) -> str:
        """The text of the first completion."""
        return self.completions[0].text

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        """Rebuilds a result stored by `to_json`."""
        for name in ("completions", "usage"):
            if name not in value:
                raise DataError(f"the stored result has no {name!r}", expected="what Result.to_json returns")
        completions = tuple(
            Completion(
                text=c["text"],
                token_ids=tuple(c["token_ids"]),
                logprobs=tuple(c["logprobs"]),
                finish_reason=c["finish_reason"],
                top_logprobs=tuple(
                    tuple((token, logprob) for token, logprob in position)
                    for position in c.get("top_logprobs", ())
                ),
            )
            for c in value["completions"]
        )
        prompt = {
            name: tuple(value[name]) for name in ("prompt_token_ids", "prompt_logprobs") if name in value
        }
        usage = Usage(**value["usage"])
        return cls(**{**value, **prompt, "completions": completions, "usage": usage})


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreResult(Record):
    """Log-probabilities (natural logarithm) of each completion token, and what they cost, as in `Result`."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    usage: Usage = Usage()
    model: str = ""
    adapter: str | None = None
    seconds: float = 0.0
    flops: float = 0.0

    @property
    def total(self) -> float:
        """Log-probability of the whole completion."""
        return sum(self.logprobs)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ScoreResult:
        """Rebuilds a result stored by `to_json`."""
        return cls(
            **{
                **value,
                "token_ids": tuple(value["token_ids"]),
                "logprobs": tuple(value["logprobs"]),
                "usage": Usage(**value["usage"]),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities(Record):
    """What an engine offers, so that an agent that needs more fails when it is built.

    Attributes:
        features: What it can do.
        determinism: What a seed promises. "none": nothing. "seeded": the same random numbers, so the same
            tokens up to rounding, which depends on what else is in the batch. "invariant": the same tokens,
            bit for bit, whatever else the engine does.
        max_length: Most tokens of prompt and completion together, or None if unknown.
    """

    features: frozenset[Feature]
    determinism: Determinism = "none"
    max_length: int | None = None

    def require(self, needs: frozenset[Feature], *, engine: str, by: str) -> None:
        """Raises unless all `needs` are met.

        Raises:
            CapabilityError: naming what `engine` lacks and who (`by`) needs it.
        """
        missing = needs - self.features
        if missing:
            raise CapabilityError.lacking(missing, engine=engine, by=by)


EventKind = Literal["generate", "score", "embed"]
EventStatus = Literal["finished", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEvent(Record):
    """One request that an engine has ended: what telemetry is made from. Times are Unix seconds.

    Attributes:
        kind: Generation, scoring or embedding.
        status: How it ended.
        origin: Who asked.
        model: What the model was loaded as.
        adapter: Name of the adapter, or None for the base model.
        sampling: Decoding settings; the defaults, where nothing was generated.
        usage: Tokens of the request.
        finish_reasons: Why each sample ended.
        submitted: When it was submitted.
        started: When its computation began; `ended` if it never did.
        first_token: When its first token was there; `ended` if there was none.
        ended: When it ended.
        seconds: Compute seconds, as in `Result`.
        flops: Estimated floating-point operations.
        error: Class name of the error, or empty.
        prompt: What was asked, if the engine keeps it for its subscribers.
        texts: The texts of the samples, likewise.
    """

    kind: EventKind
    status: EventStatus
    origin: Origin
    model: str
    adapter: str | None = None
    sampling: SamplingParams = SamplingParams()
    usage: Usage = Usage()
    finish_reasons: tuple[FinishReason, ...] = ()
    submitted: float = 0.0
    started: float = 0.0
    first_token: float = 0.0
    ended: float = 0.0
    seconds: float = 0.0
    flops: float = 0.0
    error: str = ""
    prompt: str | tuple[Message, ...] | tuple[int, ...] = ""
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicItem(Record):
    """What agents see of a task item. It has no field that could hold the answer.

    Attributes:
        id: Stable id, a digest of task and question, so that runs can be paired.
        question: The rendered question.
        task: Name of the task it comes from.
        split: Which part of the task it belongs to; "user" is an item outside any task.
        choices: Answer choices of a multiple-choice item, or empty.
        metadata: Public facts such as difficulty. Never the answer.
    """

    id: str
    question: str
    task: str = ""
    split: Split = "user"
    choices: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Gold:
    """A sealed answer. It prints as `<gold>`; only a `Scorer` opens it (`docendo.scoring`)."""

    __slots__ = ("__sealed",)

    def __init__(self, value: Any) -> None:
        """Seals `value`."""
        self.__sealed = value

    def __repr__(self) -> str:
        return "<gold>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("gold is never serialised")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A task item: `public` for agents, `gold` for scorers alone. Kept apart by type."""

    public: PublicItem
    gold: Gold

    @property
    def id(self) -> str:
        """The item's stable id."""
        return self.public.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Example(Record):
    """A worked example for a prompt. Made from training items only (`Task.examples`)."""

    question: str
    answer: str
    item: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Author(Record):
    """Who wrote a post. Stamped by the runtime, never taken from model text.

    Attributes:
        agent: The agent's name.
        role: Its role, such as "student".
        model: Fingerprint of its base model, or empty for code.
        adapter: SHA-256 of its adapter, or None.
    """

    agent: str
    role: str
    model: str = ""
    adapter: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace(Record):
    """One agent turn, as stored: enough to learn from it and to know where it came from.

    Attributes:
        id: Idempotency key digest: the same turn of the same run has the same id.
        run: Run id.
        item: Item id (the question).
        split: The item's split; training data refuse anything but "train".
        parents: Ids of the traces this turn answers to.
        graph: Name of the graph.
        node: Name of the node.
        step: Ordinal of the turn within run, item and node.
        author: Role, model and adapter that spoke.
        messages: The prompt as chat messages.
        completion: The text.
        token_ids: Generated tokens.
        logprobs: Their log-probabilities.
        sample: Index among the `n` samples of one request.
        finish_reason: Why it ended.
        sampling: Decoding settings as JSON, seed included.
        usage: Token counts of the request (on sample 0; zero on the others).
        seconds: Compute seconds of the request (on sample 0; zero on the others).
        flops: Its estimated floating-point operations (likewise).
        rewards: Named rewards in [0, 1], such as {"verified": 1.0}.
        posts: Ids of the posts that hold its text. Filled in by the store.
        trust: What these are held to be: "quarantined" if one is, or anything that the turn follows from;
            "verified" if one is; else "unverified", also if its run posts and this turn was not posted.
            Empty if its run has no board. Filled in by the store.
    """

    id: str
    run: str
    item: str
    author: Author
    messages: tuple[Message, ...]
    completion: str
    split: Split = "user"
    parents: tuple[str, ...] = ()
    graph: str = ""
    node: str = ""
    step: int = 0
    sample: int = 0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish_reason: FinishReason = "stop"
    sampling: Mapping[str, Any] = field(default_factory=dict)
    usage: Usage = Usage()
    seconds: float = 0.0
    flops: float = 0.0
    rewards: Mapping[str, float] = field(default_factory=dict)
    posts: tuple[str, ...] = ()
    trust: str = ""

    def __post_init__(self) -> None:
        """Checks what would be stored and only fail when somebody learns from it."""
        messages: object = self.messages
        checks = (
            ("author", isinstance(self.author, Author), "an Author"),
            (
                "messages",
                isinstance(messages, (list, tuple)) and all(isinstance(one, Mapping) for one in messages),
                "chat messages",
            ),
            ("completion", isinstance(self.completion, str), "text"),
            ("split", self.split in get_args(Split), f"one of {', '.join(get_args(Split))}"),
            ("rewards", isinstance(self.rewards, Mapping), "numbers by name"),
        )
        for name, good, expected in checks:
            if not good:
                seen = repr(getattr(self, name))[:80]
                raise DataError(f"{name} of trace {self.id!r} is {seen}", expected=expected)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Trace:
        """Rebuilds a trace stored by `to_json`."""
        for name in ("id", "run", "item", "author", "messages", "completion"):
            if name not in value:
                raise DataError(f"the stored trace has no {name!r}", expected="what Trace.to_json returns")
        sequences = {
            name: tuple(value[name])
            for name in ("messages", "parents", "token_ids", "logprobs", "posts")
            if name in value
        }
        usage = {"usage": Usage(**value["usage"])} if "usage" in value else {}
        return cls(**{**value, **sequences, **usage, "author": Author(**value["author"])})
