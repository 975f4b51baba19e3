"""What servers answer, as records: whole answers and streamed ones, checked against what was asked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from docendo.errors import CapabilityError, InfrastructureError
from docendo.records import Chunk, Completion, FinishReason, Grammar, SamplingParams, Usage

_TOKEN_ID = "token_id:"


class Tokens(NamedTuple):
    """Generated tokens as far as the server tells: ids, log-probabilities, alternatives."""

    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    top: tuple[tuple[tuple[int, float], ...], ...] = ()


class StopText:
    r"""Ends a text at the first stop string, and holds back what may be the beginning of one.

    Some servers leave the stop string in the text; for the others this changes nothing.

    Example:
        >>> text = StopText(("\n\n",))
        >>> [text.feed("one\n"), text.feed("two\n"), text.feed("\nthree"), text.rest()]
        ['one', '\ntwo', '', '']
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Begins with no text."""
        self._stops = stops
        self._held = ""
        self._ended = False

    def feed(self, text: str) -> str:
        """Takes the next piece and returns what has become certain."""
        if self._ended:
            return ""
        whole = self._held + text
        found = [at for stop in self._stops if (at := whole.find(stop)) >= 0]
        if found:
            self._ended, self._held = True, ""
            return whole[: min(found)]
        keep = max((_overlap(whole, stop) for stop in self._stops), default=0)
        certain = whole[: len(whole) - keep]
        self._held = whole[len(certain) :]
        return certain

    def rest(self) -> str:
        """What was held back, once no more text will come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of a text that begins a stop string."""
    return next((size for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size])), 0)


def usage_of(answer: Mapping[str, Any], completions: Sequence[Completion] = ()) -> Usage:
    """The server's own counts; zeros where it gives none.

    llama.cpp counts only the first of `n` samples: never fewer than the tokens that came.
    """
    came = sum(len(completion.token_ids) for completion in completions)
    counts = answer.get("usage") or {}
    details = counts.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=int(counts.get("prompt_tokens") or 0),
        cached_tokens=int(details.get("cached_tokens") or 0),
        generated_tokens=max(came, int(counts.get("completion_tokens") or 0)),
    )


def completions_of(answer: Mapping[str, Any], params: SamplingParams) -> tuple[Completion, ...]:
    """The samples of a whole answer.

    Raises:
        CapabilityError: if the server left out or ignored what was asked for.
        InfrastructureError: if the answer has no samples, or the server broke off.
    """
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise InfrastructureError("the server's answer has no choices; is it an OpenAI-compatible server?")
    made = []
    for choice in sorted(choices, key=lambda choice: choice.get("index") or 0):
        message = choice.get("message") or {}
        text = StopText(params.stop)
        said = (choice.get("text") or "") if "text" in choice else (message.get("content") or "")
        said += calls_text(message.get("tool_calls") or (), after=said)
        tokens = tokens_of(choice, params.top_logprobs)
        made.append(
            Completion(
                text=text.feed(said) + text.rest(),
                token_ids=tokens.ids,
                logprobs=tokens.logprobs,
                finish_reason=_finish(choice.get("finish_reason")) or "stop",
                top_logprobs=tokens.top,
            )
        )
    return checked(made, params)


class StreamedAnswer:
    """Puts the events of a stream together, into chunks at once and into completions at the end."""

    def __init__(self, params: SamplingParams, put: Callable[[Chunk], None] | None = None) -> None:
        """Begins with no event; `put` gets the chunks."""
        self._params, self._put = params, put
        self._samples: dict[int, _Sample] = {}
        self._counts: Mapping[str, Any] = {}
        self._last: Chunk | None = None

    def feed(self, event: Mapping[str, Any]) -> bool:
        """Takes an event; returns whether it brought text or tokens (the first one only names the role)."""
        if event.get("usage"):
            self._counts = event
        brought = False
        for choice in event.get("choices") or ():
            index = int(choice.get("index") or 0)
            sample = self._samples.setdefault(index, _Sample(self._params))
            chunk = sample.feed(choice, index)
            if chunk is not None:
                brought = True
                self._pass_on(chunk)
        return brought

    def _pass_on(self, chunk: Chunk | None) -> None:
        # The last chunk of all carries the usage, which comes after it: the end of a sample is held back.
        if self._put and self._last:
            self._put(self._last)
        self._last = chunk if chunk and chunk.finish_reason else None
        if self._put and chunk and not self._last:
            self._put(chunk)

    def end(self) -> tuple[tuple[Completion, ...], Usage]:
        """The samples and the counts, once the stream has ended.

        Raises:
            InfrastructureError: if it ended too early.
            CapabilityError: as in `completions_of`.
        """
        samples = [self._samples[index] for index in sorted(self._samples)]
        if not samples or not all(sample.finish for sample in samples):
            raise InfrastructureError("the server ended its stream before the answer was complete")
        completions = checked([sample.completion() for sample in samples], self._params)
        usage = usage_of(self._counts, completions)
        if self._last:
            self._last = self._last.replace(usage=usage if self._counts else None)
        self._pass_on(None)
        return completions, usage


class _Sample:
    def __init__(self, params: SamplingParams) -> None:
        self._top = params.top_logprobs
        self._stop = StopText(params.stop)
        self._parts: list[str] = []
        self._tokens: list[Tokens] = []
        self._calls: dict[int, dict[str, str]] = {}
        self.finish: FinishReason | None = None

    def feed(self, choice: Mapping[str, Any], index: int) -> Chunk | None:
        delta = choice.get("delta") or {}
        text = self._stop.feed((choice.get("text") or "") + (delta.get("content") or ""))
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            known = self._calls.setdefault(int(call.get("index") or 0), {"name": "", "arguments": ""})
            known["name"] += function.get("name") or ""
            known["arguments"] += function.get("arguments") or ""
        tokens = tokens_of(choice, self._top)
        self._tokens.append(tokens)
        finish = _finish(choice.get("finish_reason"))
        if finish:
            text += self._stop.rest()
            calls = [{"function": self._calls[number]} for number in sorted(self._calls)]
            text += calls_text(calls, after="".join(self._parts) + text)
            self.finish = finish
        self._parts.append(text)
        if not (text or tokens.ids or tokens.logprobs or finish):
            return None
        return Chunk(
            text=text, index=index, token_ids=tokens.ids, logprobs=tokens.logprobs, finish_reason=finish
        )

    def completion(self) -> Completion:
        return Completion(
            text="".join(self._parts),
            token_ids=tuple(token for tokens in self._tokens for token in tokens.ids),
            logprobs=tuple(logprob for tokens in self._tokens for logprob in tokens.logprobs),
            finish_reason=self.finish or "stop",
            top_logprobs=tuple(position for tokens in self._tokens for position in tokens.top),
        )


def tokens_of(choice: Mapping[str, Any], top: int) -> Tokens:
    """The tokens of a choice: each server tells them in its own way, some not at all."""
    told = choice.get("logprobs") or {}
    entries = told.get("content")
    if entries is None:  # the completions endpoint has columns instead of rows
        columns = told.get("top_logprobs") or [None] * len(told.get("tokens") or ())
        entries = [
            {
                "token": token,
                "logprob": logprob,
                "top_logprobs": [{"token": t, "logprob": p} for t, p in (position or {}).items()],
            }
            for token, logprob, position in zip(
                told.get("tokens") or (), told.get("token_logprobs") or (), columns, strict=True
            )
        ]
    ids = choice.get("token_ids")
    if ids is None:
        ids = [token for entry in entries if (token := _token_id(entry)) is not None]
    known = len(ids) == len(entries)
    return Tokens(
        ids=tuple(int(token) for token in ids),
        logprobs=tuple(float(entry["logprob"]) for entry in entries) if known else (),
        top=tuple(_alternatives(entry, top) for entry in entries) if known and top else (),
    )


def _alternatives(entry: Mapping[str, Any], top: int) -> tuple[tuple[int, float], ...]:
    found = [
        (token, float(other["logprob"]))
        for other in entry.get("top_logprobs") or ()
        if (token := _token_id(other)) is not None
    ]
    return tuple(sorted(found, key=lambda pair: -pair[1])[:top])


def _token_id(entry: Mapping[str, Any]) -> int | None:
    if isinstance(entry.get("id"), int):  # llama.cpp
        return int(entry["id"])
    token = str(entry.get("token"))
    if token.startswith(_TOKEN_ID):  # vLLM
        return int(token.removeprefix(_TOKEN_ID))
    return None


def prompt_logprobs_of(answer: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    """Ids and log-probabilities of the prompt's tokens, as vLLM tells them; the first token's id is its own.

    Raises:
        CapabilityError: if the server ignored that they were asked for.
    """
    first = (answer.get("choices") or [{}])[0]
    positions = answer.get("prompt_logprobs") or first.get("prompt_logprobs")
    ids = answer.get("prompt_token_ids") or first.get("prompt_token_ids")
    if not positions or not ids or len(positions) != len(ids):
        raise _ignored("prompt_logprobs")
    return tuple(ids), tuple(
        None if position is None else float(position[str(token)]["logprob"])
        for token, position in zip(ids, positions, strict=True)
    )


def score_of(answer: Mapping[str, Any], prompt: int, completion: int) -> tuple[float, ...]:
    """Log-probabilities of the last `completion` of the tokens that were sent.

    Raises:
        CapabilityError: if the server did not return them.
    """
    choice = (answer.get("choices") or [{}])[0]
    told = (choice.get("logprobs") or {}).get("token_logprobs") or ()
    # The prompt comes back, and one token more that it had to generate.
    if not prompt + completion <= len(told) <= prompt + completion + 1:
        raise _ignored("score (echo with logprobs)")
    return tuple(float(logprob) for logprob in told[prompt : prompt + completion])


def calls_text(calls: Iterable[Mapping[str, Any]], *, after: str) -> str:
    """Tool calls as a model writes them in text; servers take them out of it."""
    written = []
    for call in calls:
        function = call.get("function") or {}
        arguments = function.get("arguments") or "{}"
        try:
            parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
        except ValueError:
            parsed = arguments
        value = json.dumps({"name": function.get("name", ""), "arguments": parsed}, ensure_ascii=False)
        written.append(f"<tool_call>\n{value}\n</tool_call>")
    return ("\n" if after and written else "") + "\n".join(written)


def checked(completions: Sequence[Completion], params: SamplingParams) -> tuple[Completion, ...]:
    """Refuses answers that show that a setting was ignored."""
    if len(completions) != params.n:
        raise _ignored(f"n ({len(completions)} samples came instead of {params.n})")
    if params.top_logprobs and not all(c.top_logprobs or not c.text for c in completions):
        raise _ignored("top_logprobs")
    if params.grammar:
        for completion in completions:
            # A text that was cut off cannot be complete.
            if completion.finish_reason == "stop" and not _fits(completion.text, params.grammar):
                raise _ignored(f"grammar {params.grammar.kind} (it answered {completion.text[:80]!r})")
    return tuple(completions)


def _fits(text: str, grammar: Grammar) -> bool:
    """Whether a text can come from a grammar. Only cheap signs: a schema is taken as "some JSON"."""
    if grammar.kind == "choice":
        return text in json.loads(grammar.spec)
    try:
        if grammar.kind == "regex":
            return re.fullmatch(grammar.spec, text) is not None
        json.loads(text)
    except re.error:  # a dialect that only the server knows
        return True
    except ValueError:
        return False
    return True


def _finish(reason: str | None) -> FinishReason | None:
    if reason in ("abort", "error"):
        raise InfrastructureError(f"the server broke off the request (finish_reason {reason!r})")
    return None if reason is None else "length" if reason == "length" else "stop"


def _ignored(what: str) -> CapabilityError:
    return CapabilityError(
        f"the server ignored {what}",
        expected="a server that offers it",
        remedy="name the server's kind, or its features, when making the OpenAIEngine",
    )
