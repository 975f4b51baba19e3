"""P5: 16 questions of 20 to 40 tokens after 512 common ones, prefill and one token; reference: no reuse.

In the second part the questions come from four roles, three of them with an activated LoRA (aLoRA), whose
weights act from the assistant's header on: what comes before is the same for all.
"""

import copy
import itertools
import random
import tempfile
import warnings
from pathlib import Path
from typing import Any

from _adapters import save_adapters
from _harness import Bar, Options, Part, against, alternate, ratios, seconds, shown
from _peers import peers
from _work import engine_seconds, load_reference, load_tokenizer, padded, random_ids, requests

from docendo import Engine
from docendo.errors import DocendoError

ROLES = ("teacher", "verifier", "tutor")


def measure(options: Options) -> Bar:
    """An engine with the prefix stored, one that has to compute it first, and one that keeps none."""
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
    keeping, plain = Engine.load(options.model), Engine.load(options.model, prefix_tokens=0)
    tokenizer = load_tokenizer(options.model)
    header = assistant_header(tokenizer)
    count, common = options.size(16, 4), options.size(512, 64)
    rng = random.Random(1)
    lengths = [max(rng.randint(20, 40), len(header) + 5) for _ in range(count)]
    fresh = itertools.count(1)

    def work(prefix: Any = None) -> list:
        """Questions that no engine has seen, after the common prefix or after a given one."""
        head = prefix or random_ids(keeping, [common], seed=0)[0]
        sizes = [length - len(header) for length in lengths]
        tails = random_ids(keeping, sizes, seed=next(fresh))
        return [head + tail + header for tail in tails]

    def run(engine: Any, roles: Any = None, prefix: Any = None) -> float:
        return engine_seconds(engine, requests(work(prefix), [1] * count, roles))

    def stored(roles: Any = None) -> float:
        engine_seconds(keeping, requests(random_ids(keeping, [common], seed=0), [1]))
        return run(keeping, roles)

    def first_time(number: int) -> float:
        return run(keeping, prefix=random_ids(keeping, [common], seed=1_000_000 + number)[0])

    made, notes = peers(
        {
            "transformers, stored DynamicCache copied": lambda: _copied_cache(
                load_reference(options.model, keeping.dtype),
                tokenizer,
                random_ids(keeping, [common], seed=0)[0],
            )
        },
        wanted=options.peers,
    )
    rare = {
        name: lambda _, ask=ask: ask([prompt[common:] for prompt in work()]) for name, ask in made.items()
    }
    rounds = options.rounds(9)  # short arms, so that more are to be had
    costs = alternate(
        {
            "stored": lambda _: stored(),
            "first time": first_time,
            "reference": lambda _: run(plain),
        },
        rounds=rounds,
        rare=rare,
    )
    parts = [Part(name="prefix stored", target=12.0, ratios=ratios(costs["reference"], costs["stored"]))]

    roles = [(None, *ROLES)[number % 4] for number in range(count)]
    try:
        with tempfile.TemporaryDirectory() as scratch:
            saved = save_adapters(options.model, Path(scratch), ROLES, invocation=header)
            for engine in (keeping, plain):
                for name, folder in saved.items():
                    engine.load_adapter(name, folder)
        costs |= {
            f"{name}, roles": row
            for name, row in alternate(
                {
                    "stored": lambda _: stored(roles),
                    "reference": lambda _: run(plain, roles),
                },
                rounds=rounds,
            ).items()
        }
        across = Part(
            name="prefix stored, four roles (aLoRA)",
            target=12.0,
            ratios=ratios(costs["reference, roles"], costs["stored, roles"]),
        )
    except DocendoError as error:
        across = Part(name="prefix stored, four roles (aLoRA)", target=12.0, ratios=(), why=str(error))
    inside = ratios(costs["reference"], costs["first time"])
    detail = {
        "requests": count,
        "common_tokens": common,
        "question_tokens": sum(lengths),
        "token_ideal": round((common * count + sum(lengths)) / sum(lengths), 1),
        "with_the_prefix_computed_inside": [round(ratio, 2) for ratio in inside],
        "seconds": shown(costs),
        "dtype": str(keeping.dtype),
    }
    keeping.close(), plain.close()
    beside = against(costs, "reference", list(rare))
    return Bar(name="P5", parts=[*parts, across], peers={**beside, **notes}, detail=detail)


def assistant_header(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that open the assistant's turn in the chat template."""
    chat = [{"role": "user", "content": "x"}]
    with_it, without = (
        tokenizer.apply_chat_template(chat, add_generation_prompt=on, return_dict=False)
        for on in (True, False)
    )
    return tuple(with_it[len(without) :])


def _copied_cache(model: Any, tokenizer: Any, prefix: tuple[int, ...]) -> Any:
    """One stored cache, copied for each batch and its rows repeated; the questions padded on the left."""
    import torch
    from transformers import DynamicCache

    with torch.inference_mode():
        stored = DynamicCache(config=model.config)
        model(input_ids=torch.tensor([prefix]), past_key_values=stored, logits_to_keep=1)

    def ask(questions: list) -> None:
        with torch.inference_mode():
            cache = copy.deepcopy(stored)
            cache.batch_repeat_interleave(len(questions))
            inputs = padded(tokenizer, questions)
            mask = torch.nn.functional.pad(inputs["attention_mask"], (len(prefix), 0), value=1)
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, len(prefix) :]
            model(
                input_ids=inputs["input_ids"],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                logits_to_keep=1,
            ).logits[:, -1].argmax(-1).tolist()

    return lambda questions: seconds(lambda: ask(questions))
