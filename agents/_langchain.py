"""A LangChain chat model over any engine, so that local models fit wherever LangChain and LangGraph do.

What an engine cannot do is said when the model is built or bound. Structured output and forced tool calls
are held to their JSON schema by a grammar where the engine has one; otherwise the model is only told of the
schema, and what does not parse is an error of the parser.
"""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from operator import itemgetter
from typing import Any, Self, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableMap, RunnablePassthrough
from langchain_core.runnables.config import ensure_config, get_config_list
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, InstanceOf, PrivateAttr, SkipValidation, model_validator

from docendo.agents._forms import (
    ANY_OBJECT,
    answer_parser,
    any_of,
    call_schema,
    closed,
    describe_schema,
    forced_tools,
    json_schema_of,
    response_schema,
)
from docendo.agents._messages import prompt_with, to_messages, with_system
from docendo.agents._protocol import EngineProtocol
from docendo.agents._replies import Ask, StreamedReply, generations
from docendo.agents._toolcalls import tool_name
from docendo.errors import CapabilityError, ConfigError
from docendo.records import Capabilities, Chunk, Feature, Grammar, Origin, Request, SamplingParams

_SAMPLING = frozenset(field.name for field in dataclasses.fields(SamplingParams))
_PER_CALL = frozenset(
    {"adapter", "logprobs", "model", "priority", "response_format", "strict", "timeout"}
    | {"tool_choice", "tools"}
)
#: LangChain's standard parameters that mean nothing to a local model; any other unknown name is an error.
_MEANINGLESS = frozenset({"api_key", "max_retries"})
_MOST_THREADS = 256


class ChatDocendo(BaseChatModel):
    """A LangChain chat model that any docendo engine answers, with tools, structured output and streaming.

    All calls go to the engine, which batches them with everything else that it runs; `batch` and `abatch`
    submit all inputs at once. Settings may also be given per call or bound: the fields of `SamplingParams`,
    `adapter`, `logprobs`, `priority`, `timeout`, and LangChain's `stop` and `model`, which names the engine's
    model or one of its adapters. A name that is unknown is an error.

    Tools are shown by the model's chat template if it can, else described in the system message. A forced
    tool call (`tool_choice`) and structured output are constrained by a grammar if the engine has the
    capability `json_schema`; `strict=True` demands it.

    Attributes:
        engine: What runs the model.
        adapter: Name of an adapter loaded in the engine, or None for the base model.
        sampling: Decoding settings; the fields below, where set, go before them.
        role: Role in the engine's ledger.
        agent: Name in the engine's ledger.
        run: Run in the engine's ledger.
        temperature: LangChain's standard parameter; 0 decodes greedily.
        max_tokens: LangChain's standard parameter: most tokens to generate.
        stop: LangChain's standard parameter: strings that end the text.
        seed: Seed of the sampled tokens.
        timeout: LangChain's standard parameter: seconds after which a call fails with `DeadlineExceeded`.
        priority: As in `Request`.
        logprobs: Whether messages tell the log-probabilities of their tokens (`response_metadata`).
        streaming: LangChain's switch: True streams inside `invoke` as well, False never streams.

    Example:
        >>> from docendo.agents import ScriptedEngine
        >>> from langchain_core.messages import HumanMessage
        >>> model = ChatDocendo(engine=ScriptedEngine(["Four."]))
        >>> model.invoke([HumanMessage("2 + 2 =")]).content
        'Four.'
    """

    engine: SkipValidation[EngineProtocol] = Field(exclude=True, repr=False)
    adapter: str | None = None
    sampling: InstanceOf[SamplingParams] = SamplingParams()
    role: str = "chat"
    agent: str = ""
    run: str = ""
    temperature: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    seed: int | None = None
    timeout: float | None = None
    priority: int = 0
    logprobs: bool = False
    streaming: bool = False

    _tokenizer: Any = PrivateAttr(default=None)
    _tokenizing: Any = PrivateAttr(default_factory=threading.Lock)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: Any) -> Any:
        unknown = sorted(set(values) - set(cls.model_fields) - _MEANINGLESS)
        if unknown:
            own = sorted(set(cls.model_fields) - set(BaseChatModel.model_fields))
            raise ConfigError(f"ChatDocendo has no field {', '.join(unknown)}", expected=", ".join(own))
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not isinstance(self.engine, EngineProtocol):
            raise ConfigError(
                f"the engine is a {type(self.engine).__name__}", expected="one such as docendo.agents.Engine"
            )
        needs: set[Feature] = {"messages", *self._settings().needs()}
        if self.adapter is not None:
            needs.add("adapters")
        self._capabilities.require(frozenset(needs), engine=self.engine.name, by="ChatDocendo")
        if "stream" not in self._capabilities.features:
            self.disable_streaming = True
        return self

    # --- what LangChain asks of a chat model ------------------------------------------------------

    @property
    def model_name(self) -> str:
        """What answers: the adapter, or the engine's model."""
        return self.adapter or self.engine.name

    @property
    def _llm_type(self) -> str:
        return "docendo"

    @property
    def _capabilities(self) -> Capabilities:
        return self.engine.capabilities

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "model_name": self.model_name,
            "fingerprint": self.engine.fingerprint,
            "adapter_sha256": self.engine.adapter_hash(self.adapter),
            **self._settings().to_json(),
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        settings = self._settings(stop)
        params = LangSmithParams(
            ls_provider="docendo",
            ls_model_type="chat",
            ls_model_name=kwargs.get("model") or kwargs.get("adapter") or self.model_name,
            ls_temperature=kwargs.get("temperature", settings.temperature),
            ls_max_tokens=kwargs.get("max_tokens", settings.max_tokens),
        )
        if settings.stop:
            params["ls_stop"] = list(settings.stop)
        return params

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # What LangChain's cache takes for the same model: not an adapter that was swapped since.
        return f"{super()._get_llm_string(stop, **kwargs)}{self.engine.adapter_hash(self._answering(kwargs))}"

    def _resolve_model_profile(self) -> ModelProfile:
        limit = self._capabilities.max_length
        profile = ModelProfile(
            tool_calling=True,
            tool_choice=True,
            structured_output="json_schema" in self._capabilities.features,
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            pdf_inputs=False,
        )
        if limit is not None:
            profile["max_input_tokens"] = limit
        return profile

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        ask = self._ask(messages, stop, kwargs)
        return ChatResult(generations=generations(ask, self.engine.generate(ask.request)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        ask = self._ask(messages, stop, kwargs)
        return ChatResult(generations=generations(ask, await self.engine.agenerate(ask.request)))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        ask = self._ask(messages, stop, kwargs, streamed=True)
        reply = StreamedReply(ask)
        # Closed also when the caller stops early, which cancels the request.
        with closing(cast("Generator[Chunk]", self.engine.stream(ask.request))) as chunks:
            for chunk in chunks:
                if (piece := reply.feed(chunk)) is not None:
                    yield piece
        yield from reply.finish()

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        ask = self._ask(messages, stop, kwargs, streamed=True)
        reply = StreamedReply(ask)
        async with aclosing(cast("AsyncGenerator[Chunk]", self.engine.astream(ask.request))) as chunks:
            async for chunk in chunks:
                if (piece := reply.feed(chunk)) is not None:
                    yield piece
        for piece in reply.finish():
            yield piece

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answers all inputs, which the engine batches. `max_concurrency` in the config bounds them.

        LangChain's own default is a few threads, one a processor: too few requests to fill a batch.
        """
        most = min(len(inputs), _MOST_THREADS)
        configs = [
            cast("RunnableConfig", {**one, "max_concurrency": one.get("max_concurrency") or most})
            for one in get_config_list(config, len(inputs))
        ]
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids of a text, from the engine's own tokenizer."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        if getattr(self.engine, "tokenizer", None) is None:
            raise CapabilityError(
                f"the engine {self.engine.name!r} has no tokenizer at hand",
                remedy="pass custom_get_token_ids to ChatDocendo",
            )
        with self._tokenizing:
            if self._tokenizer is None:
                # A copy: a fast tokenizer must not be used by two threads, and the engine uses its own.
                self._tokenizer = copy.deepcopy(self.engine.tokenizer)  # type: ignore[attr-defined]
            return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Tokens of the rendered prompt, tools included."""
        given = [convert_to_openai_tool(tool) for tool in tools or ()]
        native = "tools" in self._capabilities.features
        prompt, shown = prompt_with(to_messages(messages), given, native=native)
        return len(self.get_token_ids(self.engine.render(prompt, shown)))

    # --- tools and structured output --------------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | Mapping[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Lets the model call tools.

        Args:
            tools: Tools, functions, pydantic classes or schemas.
            tool_choice: None or "auto" leaves it to the model, "any" (or "required", or True) forces a call,
                a name forces a call of that tool, and "none" hides the tools.
            strict: True demands that a forced call is constrained to the tool's schema.
            **kwargs: Bound as well.

        Raises:
            ConfigError: if `tool_choice` names no tool.
            CapabilityError: if `strict` is True and the engine cannot constrain.

        Example:
            >>> from docendo.agents import ScriptedEngine
            >>> def add(a: int, b: int) -> int:
            ...     '''Adds.'''
            ...     return a + b
            >>> text = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'
            >>> model = ChatDocendo(engine=ScriptedEngine([text])).bind_tools([add])
            >>> model.invoke("1 + 2?").tool_calls[0]["args"]
            {'a': 1, 'b': 2}
        """
        shown = [convert_to_openai_tool(tool) for tool in tools]
        if forced_tools(shown, tool_choice):
            self._constrains(strict)
        return self.bind(tools=shown, tool_choice=tool_choice, strict=strict, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: str = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Makes the model answer in the form of a schema.

        Args:
            schema: A pydantic class (the answer is an instance), a TypedDict or a JSON schema (a dictionary).
            include_raw: Whether to return a dictionary of "raw", "parsed" and "parsing_error" instead.
            method: "json_schema" shows the schema and constrains to it, "function_calling" makes a forced
                tool call of it, and "json_mode" constrains to any JSON object; the prompt has to say which.
            strict: True demands that the engine can constrain.
            **kwargs: Bound as well.

        Raises:
            ConfigError: if the method is unknown.
            CapabilityError: if `strict` is True and the engine cannot constrain.

        Example:
            >>> from docendo.agents import ScriptedEngine
            >>> model = ChatDocendo(engine=ScriptedEngine(['{"age": 7}']))
            >>> model.with_structured_output({"title": "Age", "type": "object",
            ...     "properties": {"age": {"type": "integer"}}}).invoke("How old is she?")
            {'age': 7}
        """
        self._constrains(strict)
        if method == "function_calling":
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        if method == "json_schema":
            form = {"type": "json_schema", "json_schema": {"schema": json_schema_of(schema)}}
        elif method == "json_mode":
            form = {"type": "json_object"}
        else:
            raise ConfigError(
                f"method is {method!r}", expected="one of json_schema, function_calling, json_mode"
            )
        model = self.bind(
            response_format=form,
            strict=strict,
            ls_structured_output_format={"kwargs": {"method": method}, "schema": schema},
            **kwargs,
        )
        parse = answer_parser(schema)
        if not include_raw:
            return model | parse
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parse, parsing_error=lambda _: None)
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=model) | parsed.with_fallbacks([failed], exception_key="parsing_error")

    # --- from a call to a request -----------------------------------------------------------------

    def _ask(
        self,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        given: Mapping[str, Any],
        *,
        streamed: bool = False,
    ) -> Ask:
        options = {
            name: value for name, value in given.items() if name not in ("stream", "tools", *_PER_CALL)
        }
        if unknown := sorted(set(options) - _SAMPLING):
            raise ConfigError(
                f"a call of ChatDocendo has no setting {', '.join(unknown)}",
                expected=", ".join(sorted(_SAMPLING | _PER_CALL)),
            )
        sampling = self._settings(stop).replace(**options)
        if streamed and sampling.n > 1:
            raise ConfigError(f"n is {sampling.n} in a stream", expected="1", remedy="use generate for more")
        adapter = self._answering(given)
        choice = given.get("tool_choice")
        tools = [] if choice == "none" else list(given.get("tools") or ())
        forced = forced_tools(tools, choice)
        schema = response_schema(given.get("response_format"))
        forms = [call_schema(tool) for tool in forced]
        if schema is not None and not forced:  # then the model may call a tool instead
            forms = [schema, *(call_schema(tool) for tool in tools)]
        constrained = bool(forms) and self._constrains(given.get("strict"))
        if constrained:
            if sampling.grammar is not None:
                raise ConfigError("a grammar is set as well as a form of the answer", expected="one of them")
            sampling = sampling.replace(grammar=Grammar.json_schema(closed(any_of(forms))))
        prompt, shown = prompt_with(
            to_messages(messages),
            tools,
            native="tools" in self._capabilities.features,
            forced=[tool_name(tool) for tool in forced],
            bare=constrained,
        )
        if schema is not None and schema != ANY_OBJECT and not forced:
            prompt = with_system(prompt, describe_schema(schema, otherwise=bool(tools)))
        return Ask(
            request=Request(
                prompt=prompt,
                sampling=sampling,
                adapter=adapter,
                origin=Origin(run=self.run, role=self.role, agent=self.agent, node=_node()),
                tools=shown,
                priority=given.get("priority", self.priority),
                timeout=given.get("timeout", self.timeout),
            ),
            model_name=adapter or self.engine.name,
            adapter_sha256=self.engine.adapter_hash(adapter),
            tools=tuple(tool_name(tool) for tool in tools),
            forced=bool(forced),
            logprobs=bool(given.get("logprobs", self.logprobs or sampling.top_logprobs)),
        )

    def _answering(self, given: Mapping[str, Any]) -> str | None:
        """The adapter that a call is for."""
        model: str | None = given.get("model")  # LangChain's override; servers name adapters in it as well
        if model is not None:
            return None if model == self.engine.name else model
        adapter: str | None = given.get("adapter", self.adapter)
        return adapter

    def _settings(self, stop: Sequence[str] | None = None) -> SamplingParams:
        stop = self.stop if stop is None else stop
        given = {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "stop": stop,
        }
        return self.sampling.replace(**{name: value for name, value in given.items() if value is not None})

    def _constrains(self, strict: bool | None) -> bool:
        if strict:
            self._capabilities.require(
                frozenset({"json_schema"}), engine=self.engine.name, by="strict structured output"
            )
        return "json_schema" in self._capabilities.features


def _node() -> str:
    return str((ensure_config().get("metadata") or {}).get("langgraph_node", ""))
