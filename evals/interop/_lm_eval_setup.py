"""What lm-eval's model is set up from: an engine, its adapter, its tokenizer, and how long texts may be."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docendo.agents import EngineProtocol
from docendo.errors import CapabilityError, ConfigError

_log = logging.getLogger("docendo.evals")
#: An engine's limit counts the last scored token, which is never fed to the model; lm-eval's does not.
LAST = 1


def own_tokenizer(engine: EngineProtocol, tokenizer: Any) -> Any:
    """A tokenizer of one's own: a folder's, or a copy of the one given or of the engine's.

    Raises:
        CapabilityError: if none is given and the engine has none at hand.
    """
    if isinstance(tokenizer, (str, Path)):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)
    if tokenizer is None and getattr(engine, "tokenizer", None) is None:
        raise CapabilityError(
            f"the engine {engine.name!r} has no tokenizer at hand", remedy="pass tokenizer=FOLDER"
        )
    # A copy: a fast tokenizer must not be used by two threads, and the engine uses its own.
    return copy.deepcopy(engine.tokenizer if tokenizer is None else tokenizer)  # type: ignore[attr-defined]


def limit_of(engine: EngineProtocol, max_length: int | None) -> int:
    """Most tokens that a text may feed to the engine's model: the engine's own limit, or a smaller one.

    Raises:
        ConfigError: if it is larger, or not positive.
    """
    most = engine.capabilities.max_length
    if max_length is None:
        return (1 << 20) if most is None else most - LAST
    if max_length < 1 or (most is not None and max_length > most - LAST):
        raise ConfigError(
            f"max_length is {max_length}",
            expected="at least 1" + ("" if most is None else f" and at most {most - LAST}"),
        )
    return max_length


def render_chat(
    tokenizer: Any,
    messages: Sequence[Mapping[str, str]],
    *,
    generate: bool,
    model: str,
    options: Mapping[str, Any],
) -> str:
    """Renders a chat with a tokenizer's template; without its system message, if the template has none.

    Args:
        tokenizer: A Hugging Face tokenizer.
        messages: The chat.
        generate: Whether the assistant is to begin a turn; else it goes on with the last one.
        model: What errors call the model.
        options: Further arguments of the template.

    Raises:
        ConfigError: if there is no chat template, or it refuses the messages.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise ConfigError(
            f"the tokenizer of {model!r} has no chat template",
            remedy="evaluate it without --apply_chat_template",
        )
    refusal = ""
    for chat in (list(messages), [message for message in messages if message["role"] != "system"]):
        try:
            return str(
                tokenizer.apply_chat_template(
                    chat,
                    tokenize=False,
                    add_generation_prompt=generate,
                    continue_final_message=not generate,
                    **options,
                )
            )
        except TemplateError as error:
            refusal = str(error)
            _log.warning("the chat template refuses the messages (%s)", refusal)
    raise ConfigError(f"the chat template of {model!r} refuses the messages: {refusal}")
