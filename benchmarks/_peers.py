"""The other contenders: inspect_ai's `hf` provider and transformers' continuous batching.

Each is made once, with its own copy of the model, and returns the wall seconds of the same work. Their
settings are chosen in their favour and stated here.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from _work import load_reference
from transformers import GenerationConfig

from docendo.agents import models


class InspectAI:
    """inspect_ai's `hf` provider: batches of up to 64 after two quiet seconds, polled every second."""

    def __init__(self, model: str, dtype: Any) -> None:
        """Loads the model through inspect_ai."""
        from inspect_ai.model import get_model

        folder = str(models.resolve(model))
        self._model = get_model(
            f"hf/{model}", model_path=folder, device="cpu", do_sample=False, dtype=dtype, memoize=False
        )
        self._model.api.model.generation_config.eos_token_id = None

    @staticmethod
    def missing() -> str:
        """Why it cannot be measured, or an empty string."""
        return "" if importlib.util.find_spec("inspect_ai") else "inspect_ai is not installed (extra `bench`)"

    def __call__(self, chats: Sequence[Any], news: Sequence[int]) -> float:
        """Seconds for all chats at once."""
        began = time.perf_counter()
        asyncio.run(self._all(chats, news))
        return time.perf_counter() - began

    async def _all(self, chats: Sequence[Any], news: Sequence[int]) -> None:
        from inspect_ai.model import ChatMessageUser, GenerateConfig

        await asyncio.gather(
            *(
                self._model.generate(
                    [ChatMessageUser(content=chat[0]["content"])],
                    config=GenerateConfig(max_tokens=new, max_connections=64),
                )
                for chat, new in zip(chats, news, strict=True)
            )
        )


class Continuous:
    """transformers' continuous batching on the CPU: `generate_batch`, or its manager where limits differ.

    Its manager is kept between calls and is there before the clock starts, because making its cache, by
    default of 60 % of the machine's memory, takes 20 s. Here the cache has the size of the work. `tuned` also
    has pages and batches of that size instead of a GPU's.
    """

    def __init__(self, model: str, dtype: Any, tokenizer: Any, *, tuned: bool) -> None:
        """Loads its own copy of the model, since its attention is replaced."""
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
        self._model = load_reference(model, dtype)
        self._tokenizer = tokenizer
        self._tuned = tuned
        self._settings: Any = None

    def __call__(self, chats: Sequence[Any], news: Sequence[int]) -> float:
        """Seconds for all chats at once; the first call is made twice."""
        if self._settings is None:
            self._settings = self._fitting(len(chats), max(news))
            self._run(chats, news)
        spent, outputs = self._run(chats, news)
        if [len(tokens) for tokens in outputs] != list(news):
            raise SystemExit(f"continuous batching gave {[len(tokens) for tokens in outputs]} tokens")
        return spent

    def _fitting(self, count: int, new: int) -> Any:
        from transformers import ContinuousBatchingConfig

        if not self._tuned:
            return ContinuousBatchingConfig(num_blocks=2 * count)
        page = 32
        return ContinuousBatchingConfig(
            page_size=page,
            num_blocks=count * (2 + (256 + new) // page),
            max_batch_tokens=1024,
            allow_block_sharing=False,
            use_async_batching=False,
        )

    def _run(self, chats: Sequence[Any], news: Sequence[int]) -> tuple[float, list[list[int]]]:
        began = time.perf_counter()
        prompts = [
            self._tokenizer.apply_chat_template(list(chat), add_generation_prompt=True, return_dict=False)
            for chat in chats
        ]
        # -1: no token ends a completion.
        options = GenerationConfig(max_new_tokens=max(news), do_sample=False, eos_token_id=-1, pad_token_id=0)
        settings = {
            "generation_config": options,
            "continuous_batching_config": self._settings,
            "persistent_manager": True,
        }
        if len(set(news)) == 1:
            made = self._model.generate_batch(prompts, **settings)
            outputs = [result.generated_tokens for result in made.values()]
            self._tokenizer.batch_decode(outputs, skip_special_tokens=True)
            return time.perf_counter() - began, outputs
        made: dict[str, list[int]] = {}
        with self._model.continuous_batching_context_manager(**settings, timeout=5) as manager:
            for number, (prompt, new) in enumerate(zip(prompts, news, strict=True)):
                manager.add_request(prompt, request_id=str(number), max_new_tokens=new)
            while len(made) < len(prompts):
                result = manager.get_result(timeout=1)
                if result is not None and result.is_finished():
                    made[result.request_id] = result.generated_tokens
                elif result is None and not manager.is_running():
                    raise SystemExit("transformers' continuous batching has stopped")
            outputs = [made[str(number)] for number in range(len(prompts))]
            self._tokenizer.batch_decode(outputs, skip_special_tokens=True)
            return time.perf_counter() - began, outputs


def peers(
    makers: dict[str, Callable[[], Callable[[int], float]]], *, wanted: bool
) -> tuple[dict[str, Callable[[int], float]], dict[str, str]]:
    """Makes the contenders that can be made; for the others, says why not.

    A contender that fails must not take a bar with it.
    """
    made: dict[str, Callable[[int], float]] = {}
    notes: dict[str, str] = {}
    for name, make in makers.items() if wanted else ():
        try:
            made[name] = make()
        except Exception as error:  # whatever another library raises
            notes[name] = f"cannot be set up: {type(error).__name__}: {error}"
    return made, notes
