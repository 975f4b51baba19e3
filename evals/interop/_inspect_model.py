"""A model provider for inspect_ai: its tasks on any engine, batched by the engine, with adapters."""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docendo.agents import EngineProtocol
from docendo.agents._forms import any_of, call_schema, closed, describe_schema, forced_tools
from docendo.agents._messages import prompt_with, with_system
from docendo.agents._templates import prompt_ids
from docendo.agents._toolcalls import tool_name
from docendo.errors import CapabilityError, ConfigError, MissingExtra
from docendo.evals.interop._engines import loaded, opened
from docendo.evals.interop._inspect_messages import to_messages, to_output, to_tools
from docendo.hashing import derive_seed, digest
from docendo.records import Grammar, Message, Origin, Request, SamplingParams

try:
    from inspect_ai.model import GenerateConfig, Model, ModelAPI, ModelOutput
    from inspect_ai.tool import ToolFunction
except ModuleNotFoundError as error:
    raise MissingExtra("inspect_ai", "inspect") from error

# Under this key inspect_ai makes a model to look its name up in tables, and takes an error for "not there".
# Once for each evaluation, it would load the weights a second time, and never close the engine.
_LOOKED_UP = "__model_info_lookup__"

#: Samples at once where the user does not say: rows of an engine, and as many that are about to begin.
CONNECTIONS = 128
#: Most tokens of an answer where the task does not say, as with inspect_ai's own local models.
MAX_TOKENS = 2048
#: Settings of inspect_ai that would change what is decoded and have no counterpart here.
_REFUSED = ("best_of", "frequency_penalty", "logit_bias", "presence_penalty", "modalities", "extra_body")


class DocendoAPI(ModelAPI):
    """Answers inspect_ai's calls with an engine.

    Each call goes to the engine as it comes: there is no waiting for others, each keeps its own settings, and
    cancelling a sample takes its request out of the batch. Tokens are counted without padding. Without a
    temperature decoding is greedy. A seed is the seed of its call; without one, calls with one prompt draw
    differently, so that epochs are samples and not copies.

    Example:
        >>> from inspect_ai import eval                                           # doctest: +SKIP
        >>> from inspect_ai.model import get_model                                # doctest: +SKIP
        >>> model = get_model("docendo/smollm2-135m-instruct", adapter="adapters/sums")  # doctest: +SKIP
        >>> eval("task.py", model=model)                                          # doctest: +SKIP
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        *,
        engine: EngineProtocol | None = None,
        adapter: str | Path | None = None,
        dtype: str = "auto",
        device: str | None = None,
        max_rows: int = 64,
    ) -> None:
        """Loads a model, unless an engine is given.

        Args:
            model_name: Catalogue name, folder or hub id, or KIND:ADDRESS#MODEL of a server.
            base_url: Refused: a server's address is part of the name.
            api_key: Not used for requests.
            config: inspect_ai's settings. Where they do not bound the samples at once, 128 run at a time.
            engine: An engine that stays the caller's to close; see `inspect_model`.
            adapter: Name of an adapter loaded in the engine, or a LoRA folder; None is the base model.
            dtype: Precision of a model that is loaded, as in `Engine.load`.
            device: Torch device of a model that is loaded; the first GPU by default.
            max_rows: Most samples decoded at once by a model that is loaded.

        Raises:
            ConfigError: if `base_url` is given, or inspect_ai only wants to look the model up.
            ModelNotFound: if there is no such model.
            AdapterError: if the adapter cannot be used.
        """
        if base_url is not None:
            raise ConfigError(
                f"base_url is {base_url!r}", remedy="name a server's model as docendo/KIND:ADDRESS#MODEL"
            )
        if engine is None and api_key == _LOOKED_UP:
            raise ConfigError(f"inspect_ai's tables hold nothing about {model_name}")
        config = config if config is not None else GenerateConfig()
        if config.max_connections is None and config.adaptive_connections is None:
            # inspect_ai would begin with 20 at a time and grow, which suits a service and not a batch.
            config.max_connections = CONNECTIONS
        super().__init__(model_name=model_name, api_key=api_key, config=config)
        self._owned = engine is None
        self.engine: EngineProtocol
        with opened(model_name, engine, dtype=dtype, device=device, max_rows=max_rows) as self.engine:
            name, capabilities = self.engine.name, self.engine.capabilities
            capabilities.require(frozenset({"messages"}), engine=name, by="inspect_ai")
            self.adapter = loaded(self.engine, adapter)
        # A copy: a fast tokenizer must not be used by two threads, and the engine uses its own.
        self._tokenizer = copy.deepcopy(getattr(self.engine, "tokenizer", None))
        self._tokenizing = threading.Lock()
        self._drawn: Counter[str] = Counter()

    # --- what inspect_ai asks about the model -------------------------------------------------------

    def max_connections(self) -> int:
        """Samples at once where the user does not say."""
        return CONNECTIONS

    def max_tokens(self) -> int:
        """Most tokens of an answer where the task does not say; less where the model's length is less."""
        return MAX_TOKENS

    def collapse_user_messages(self) -> bool:
        """Many chat templates refuse two turns in a row of one role."""
        return True

    def collapse_assistant_messages(self) -> bool:
        """Many chat templates refuse two turns in a row of one role."""
        return True

    def connection_key(self) -> str:
        """Each model has its own places."""
        return f"{self.model_name} {self.adapter}"

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of a text by the model's own tokenizer."""
        tokenizer = self._own_tokenizer()
        with self._tokenizing:
            return list(tokenizer(text, add_special_tokens=False).input_ids)

    async def count_text_tokens(self, text: str) -> int:
        """Exact number of tokens of a text."""
        return len(await self.tokenize(text))

    async def count_tokens(self, input: str | Sequence[Any], config: Any = None) -> int:
        """Exact number of tokens of a text, or of a rendered chat."""
        if isinstance(input, str):
            return await self.count_text_tokens(input)
        tokenizer = self._own_tokenizer()
        prompt, _ = prompt_with(to_messages(input), (), native="tools" in self.engine.capabilities.features)
        with self._tokenizing:
            return len(prompt_ids(tokenizer, prompt))

    def close(self) -> None:
        """Closes the engine, if it was loaded here."""
        if self._owned:
            self.engine.close()

    # --- calls --------------------------------------------------------------------------------------

    async def generate(self, input: Any, tools: Any, tool_choice: Any, config: Any) -> Any:
        """Answers one call; a prompt that leaves no room for an answer ends as `model_length`."""
        given = [] if tool_choice == "none" else to_tools(tools)
        request, forced = self._request(to_messages(input), given, tool_choice, config)
        request, room = self._fitted(request)
        if room is not None and room < 1:
            why = f"the prompt has {1 - room} tokens more than the model takes with an answer"
            return ModelOutput.from_content(self.model_name, "", stop_reason="model_length", error=why)
        result = await self.engine.agenerate(request)
        wants = bool(config.logprobs or config.top_logprobs)
        decode = None
        if wants or config.prompt_logprobs:
            decode = self._token_text
        return to_output(
            result,
            model=self.model_name,
            tools=[tool_name(tool) for tool in given],
            forced=forced,
            logprobs=wants,
            decode=decode,
        )

    def _request(
        self, messages: tuple[Message, ...], tools: list[Any], tool_choice: Any, config: Any
    ) -> tuple[Request, bool]:
        """The request of a call, and whether it has to be answered by calling a tool."""
        choice = tool_choice.name if isinstance(tool_choice, ToolFunction) else tool_choice
        forced = forced_tools(tools, choice) if tools else []
        schema = _schema(config)
        forms = [call_schema(tool) for tool in forced]
        if schema is not None and not forced:
            forms = [schema, *(call_schema(tool) for tool in tools)]
        features = self.engine.capabilities.features
        constrained = bool(forms) and "json_schema" in features
        sampling = _sampling(config)
        if constrained:
            sampling = sampling.replace(grammar=Grammar.json_schema(closed(any_of(forms))))
        prompt, shown = prompt_with(
            messages,
            tools,
            native="tools" in features,
            forced=[tool_name(tool) for tool in forced],
            bare=constrained,
        )
        if schema is not None and not forced:
            prompt = with_system(prompt, describe_schema(schema, otherwise=bool(tools)))
        if not sampling.greedy and sampling.seed is None:
            sampling = sampling.replace(seed=self._next_seed(prompt, sampling))
        request = Request(
            prompt=prompt,
            sampling=sampling,
            adapter=self.adapter,
            origin=Origin(run="inspect", role="evaluated", agent=self.model_name),
            tools=tuple(shown),
        )
        return request, bool(forced)

    def _next_seed(self, prompt: Sequence[Message], sampling: SamplingParams) -> int:
        key = digest(list(prompt), sampling.to_json())
        self._drawn[key] += 1
        return derive_seed("inspect", key, self._drawn[key])

    def _fitted(self, request: Request) -> tuple[Request, int | None]:
        """The request with as many tokens as the model has room for, and that number; None if unknown."""
        most = self.engine.capabilities.max_length
        if most is None or self._tokenizer is None:
            return request, None
        with self._tokenizing:
            room = most - len(prompt_ids(self._tokenizer, request.prompt, request.tools))
        if not 1 <= room < request.sampling.max_tokens:
            return request, room
        return request.replace(sampling=request.sampling.replace(max_tokens=room)), room

    def _own_tokenizer(self) -> Any:
        if self._tokenizer is None:
            raise CapabilityError(f"the engine {self.engine.name!r} has no tokenizer at hand")
        return self._tokenizer

    def _token_text(self, token: int) -> str:
        tokenizer = self._own_tokenizer()
        with self._tokenizing:
            return str(tokenizer.decode([token]))


def inspect_model(
    engine: EngineProtocol, adapter: str | Path | None = None, *, config: GenerateConfig | None = None
) -> Model:
    """An inspect_ai model over an engine that is already there, beside everything else that it runs.

    Args:
        engine: Any engine; it stays the caller's to close.
        adapter: Name of an adapter loaded in the engine, or a LoRA folder; None is the base model.
        config: inspect_ai's settings, such as `GenerateConfig(temperature=0.7)`.

    Example:
        >>> from docendo.agents import ScriptedEngine
        >>> str(inspect_model(ScriptedEngine(["Four."])))
        'docendo/scripted'
    """
    from docendo.evals.interop._inspect_registry import docendo

    config = config if config is not None else GenerateConfig()
    api = docendo(model_name=engine.name, config=config, engine=engine, adapter=adapter)
    model = Model(api, config, {} if adapter is None else {"adapter": str(adapter)})
    api.qualified_model_name = str(model)
    return model


def _schema(config: Any) -> dict[str, Any] | None:
    if config.response_schema is None:
        return None
    found: dict[str, Any] = config.response_schema.json_schema.model_dump(exclude_none=True)
    return found


def _sampling(config: Any) -> SamplingParams:
    """Decoding settings of a call.

    Raises:
        ConfigError: if a setting would change what is decoded and has no counterpart.
    """
    for name in _REFUSED:
        if getattr(config, name):
            raise ConfigError(
                f"{name} is {getattr(config, name)!r}", expected="nothing: it has no counterpart"
            )
    if (config.prompt_logprobs or 1) > 1:
        raise ConfigError(
            f"prompt_logprobs is {config.prompt_logprobs}", expected="1: the prompt's own tokens, no others"
        )
    given = {
        "max_tokens": config.max_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "seed": config.seed,
        "stop": tuple(config.stop_seqs or ()),
        "n": config.num_choices,
        "top_logprobs": config.top_logprobs,
    }
    return SamplingParams(
        prompt_logprobs=bool(config.prompt_logprobs),
        **{name: value for name, value in given.items() if value is not None},
    )
