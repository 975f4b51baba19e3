"""P10: the same log-likelihood requests of lm-eval on the engine; reference: lm-eval's `hf` model.

Four tasks of lm-eval over the docstrings of Python's standard library; lm-eval's own code makes the requests.
`hf` runs at the best of several batch sizes for each of them, with the model in the same precision. Both
sides begin with text and end with a log-likelihood and whether greedy decoding would write the same.
"""

import contextlib
import copy
import importlib
import inspect
import io
import logging
import random
import sys
import warnings
from itertools import chain
from statistics import median
from typing import Any

from _harness import Bar, Options, Part, alternate, ratios, seconds, shown
from _work import load_reference, load_tokenizer

from docendo import Engine

#: "auto" looks for the largest batch that memory holds, on each call; for whole texts with a text as long as
#: the model's limit, which takes minutes, so it is tried on the others only.
BATCHES = (8, 16, 32, 64, "auto")
QUESTION = {
    "documents": "sentences",
    "doc_to_text": "Which function of Python's standard library is this? {{text}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{gold}}",
    "output_type": "multiple_choice",
    "num_fewshot": 5,
}
TASKS: dict[str, dict[str, Any]] = {
    # lm-eval's usual way: examples are drawn for each question, so only its four requests begin alike.
    "5 examples a question, 4 answers in words": {**QUESTION, "count": 24},
    # As in MMLU: the same examples for all questions, and answers of one token.
    "5 examples for all, 4 answers in letters": {
        **QUESTION,
        "count": 32,
        "doc_to_text": "{{text}}\n{% for c in choices %}{{'ABCD'[loop.index0]}}. {{c}}\n{% endfor %}Answer:",
        "doc_to_choice": ["A", "B", "C", "D"],
        "fewshot_config": {"sampler": "first_n"},
    },
    # As in LAMBADA: nothing in common, one continuation.
    "last word of a text": {
        "count": 64,
        "documents": "paragraphs",
        "doc_to_text": "{{text.rpartition(' ')[0]}}",
        "doc_to_target": " {{text.rpartition(' ')[2]}}",
        "output_type": "loglikelihood",
    },
    # As in WikiText: every token of a text.
    "whole texts": {
        "count": 16,
        "documents": "texts",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "output_type": "loglikelihood_rolling",
    },
}


def measure(options: Options) -> Bar:
    """Each task in turns on both; the documents of every round are new."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    from lm_eval.models.huggingface import HFLM

    from docendo.evals.interop._lm_eval_model import DocendoLM

    engine = Engine.load(options.model)
    ours = DocendoLM(engine, quiet=True)
    reference, tokenizer = load_reference(options.model, engine.dtype), load_tokenizer(options.model)
    hf = HFLM(pretrained=reference, tokenizer=tokenizer, batch_size=8, max_length=ours.max_length)
    documents = docstrings()
    parts, detail = [], {}
    for name, config in TASKS.items():
        figures = compare(ours, hf, config, documents, options)
        costs = figures.pop("costs")
        parts.append(Part(name=name, target=1.0, ratios=ratios(costs["reference"], costs["engine"])))
        detail[name] = {**figures, "seconds": shown(costs)}
    engine.close()
    return Bar(name="P10", parts=parts, detail={"tasks": detail, "dtype": str(engine.dtype)})


def compare(ours: Any, hf: Any, config: dict, documents: dict, options: Options) -> dict[str, Any]:
    """One task on both sides: seconds of each round, and how far the answers are apart."""
    rounds, count = options.rounds(), options.size(config["count"], 2)
    sets = requests_of(config, documents, count, rounds + 2)
    kind = sets[0][0].request_type
    trial, warm, *measured = sets
    sizes = [size for size in BATCHES if size != "auto" or kind == "loglikelihood"]
    half = trial[: len(trial) // 2]
    batch, trials = best_batch(hf, kind, half, sizes[:1] if options.quick else sizes)
    print(f"P10: {config['documents']}, {config['output_type']}: {trials}", file=sys.stderr, flush=True)
    answers: dict[str, list[Any]] = {"engine": [], "reference": []}

    def run(arm: str, number: int) -> float:
        requests = warm if number < 0 else measured[number]
        found: list[Any] = []
        spent = seconds(lambda: found.extend(answer({"engine": ours, "reference": hf}[arm], kind, requests)))
        answers[arm] += found if number >= 0 else []
        return spent

    hf.batch_size_per_gpu = batch
    costs = alternate({arm: lambda number, arm=arm: run(arm, number) for arm in answers}, rounds=rounds)
    return {
        "costs": costs,
        "requests_a_round": len(measured[0]),
        "tokens_of_a_request": round(median(len(ours.tok_encode("".join(one.args))) for one in measured[0])),
        "batch_size_of_hf": batch,
        "seconds_by_batch_size": trials,
        **agreement(list(chain.from_iterable(measured)), answers["engine"], answers["reference"]),
        **precision(hf, kind, measured[0][: -(-len(measured[0]) // 4)], answers["engine"]),
    }


# --- work ----------------------------------------------------------------------------------------


def docstrings() -> dict[str, list[dict[str, Any]]]:
    """Documents: first sentences with the function's name and three others, paragraphs, and long texts."""
    sentences: dict[str, str] = {}
    whole: dict[str, None] = {}
    for path, thing in _functions():
        text = (inspect.getdoc(thing) or "").strip()
        whole.setdefault(" ".join(text.split()))
        sentence = " ".join(text.split("\n\n")[0].split())
        # A sentence that says the name would be no question.
        if 40 <= len(sentence) <= 400 and path.rpartition(".")[2].lower() not in sentence.lower():
            sentences.setdefault(sentence, path)
    rng = random.Random(10)
    paths = list(sentences.values())
    questions = []
    for sentence, path in sentences.items():
        choices = [path, *rng.sample([other for other in paths if other != path], 3)]
        rng.shuffle(choices)
        questions.append({"text": sentence, "choices": choices, "gold": choices.index(path)})
    found = {
        "sentences": questions,
        "paragraphs": [{"text": text} for text in whole if 200 <= len(text) <= 800],
        "texts": [{"text": text} for text in whole if 400 <= len(text) <= 4000],
    }
    for documents in found.values():
        rng.shuffle(documents)
    return found


def _functions() -> list[tuple[str, Any]]:
    """Public functions and classes of the standard library, and the classes' methods."""
    found = []
    for name in sorted(sys.stdlib_module_names - {"antigravity", "this"}):  # those act when imported
        if name[0] == "_":
            continue
        try:
            module = importlib.import_module(name)
        except ImportError:  # of another platform, or not built
            continue
        own = [
            (f"{name}.{key}", thing)
            for key, thing in sorted(vars(module).items())
            if key[0] != "_" and callable(thing) and getattr(thing, "__module__", None) == name
        ]
        found += own
        for path, thing in own:
            methods = sorted(vars(thing).items()) if inspect.isclass(thing) else []
            found += [(f"{path}.{key}", one) for key, one in methods if key[0] != "_" and callable(one)]
    return found


def requests_of(config: dict, documents: dict, count: int, sets: int) -> list[list[Any]]:
    """The requests that lm-eval makes of `sets` times `count` documents."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    given = documents[config["documents"]]
    if len(given) < count * sets + 50:
        raise SystemExit(f"there are {len(given)} {config['documents']}, {count * sets + 50} are needed")
    splits = {
        "test": Dataset.from_list(given[50 : 50 + count * sets]),
        "train": Dataset.from_list(given[:50]),
    }
    task = ConfigurableTask(
        config={
            "task": "p10",
            "custom_dataset": lambda **_: splits,
            "test_split": "test",
            "fewshot_split": "train",
            "num_fewshot": 0,
            **{key: value for key, value in config.items() if key not in ("count", "documents")},
        }
    )
    task.set_fewshot_seed(seed=1234)
    with silence():
        task.build_all_requests()
    made: list[list[Any]] = [[] for _ in range(sets)]
    for request in task.instances:
        made[request.doc_id // count].append(request)
    return made


def answer(model: Any, kind: str, requests: list[Any]) -> list[Any]:
    """What a model of lm-eval answers to requests of a kind."""
    with silence():
        return getattr(model, kind)(requests)


@contextlib.contextmanager
def silence() -> Any:
    """Without lm-eval's bars and prints."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


# --- the reference at its best, and what came out -----------------------------------------------


def best_batch(hf: Any, kind: str, requests: list[Any], sizes: list[Any]) -> tuple[Any, dict[str, float]]:
    """The batch size with the least seconds, of two tries, for requests that are not measured later."""
    spent: dict[Any, float] = {}
    for again in (False, True):
        for size in sizes:
            if again and size == "auto":  # its search makes it several times as slow as any other
                continue
            hf.batch_size_per_gpu = size
            tried = seconds(lambda: answer(hf, kind, requests))
            spent[size] = min(round(tried, 2), spent.get(size, tried))
    return min(spent, key=spent.__getitem__), {str(size): round(value, 2) for size, value in spent.items()}


def agreement(requests: list[Any], ours: list[Any], theirs: list[Any]) -> dict[str, Any]:
    """How far the log-likelihoods are apart, and the share of documents with the same outcome."""
    apart = [abs(_total(a) - _total(b)) for a, b in zip(ours, theirs, strict=True)]
    found = {"largest_difference": round(max(apart), 3), "median_difference": round(median(apart), 4)}
    if not isinstance(ours[0], float):
        same = [a[1] == b[1] for a, b in zip(ours, theirs, strict=True)]
        found["same_greedy"] = round(sum(same) / len(same), 4)
    choices: dict[int, tuple[list[float], list[float]]] = {}
    for request, a, b in zip(requests, ours, theirs, strict=True):
        pair = choices.setdefault(request.doc_id, ([], []))
        pair[0].append(_total(a))
        pair[1].append(_total(b))
    if len(choices) < len(requests):
        equal = [a.index(max(a)) == b.index(max(b)) for a, b in choices.values()]
        found["same_choice"] = round(sum(equal) / len(equal), 4)
    return found


def precision(hf: Any, kind: str, requests: list[Any], ours: list[Any]) -> dict[str, list[float]]:
    """Median and largest distance of both from `hf` in float32: whose difference it is."""
    model, theirs = hf._model, answer(hf, kind, requests)
    hf._model, hf.batch_size_per_gpu = copy.deepcopy(model).float(), 8
    exact = answer(hf, kind, requests)
    hf._model = model
    found = {}
    for name, answers in (("engine_from_float32", ours[: len(requests)]), ("hf_from_float32", theirs)):
        apart = [abs(_total(a) - _total(b)) for a, b in zip(answers, exact, strict=True)]
        found[name] = [round(median(apart), 4), round(max(apart), 3)]
    return found


def _total(answered: Any) -> float:
    return answered if isinstance(answered, float) else answered[0]
