"""Embeddings from an engine and from sentence models, and a language model as reranker."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel

from docendo.agents import (
    Engine,
    EngineEmbedder,
    EngineReranker,
    LikelihoodReranker,
    ScriptedEngine,
    SentenceEmbedder,
)
from docendo.errors import CapabilityError, ConfigError, ModelNotFound
from docendo.memory import Blackboard, Budget, FullTextMemory, TwoStageRetriever, VectorMemory
from docendo.records import Author, Capabilities, Origin, Request, SamplingParams, ScoreRequest

TEXTS = ["carry the one", "borrow", "a much longer text about columns of digits " * 8]


@pytest.fixture(scope="module")
def engine(tiny_model_dir):
    with Engine.load(tiny_model_dir, dtype="float32") as loaded:
        yield loaded


def reference(folder, text, most=None):
    """The mean hidden state as transformers computes it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([tokenizer(text)["input_ids"][:most]])
    with torch.inference_mode():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    return states[0].mean(0).numpy(), ids.shape[1]


def test_an_embedding_is_the_mean_hidden_state(engine, tiny_model_dir):
    found = EngineEmbedder(engine).embed(TEXTS)
    assert found.dtype == np.float32
    for row, text in zip(found, TEXTS, strict=True):
        np.testing.assert_allclose(row, reference(tiny_model_dir, text)[0], atol=2e-5)


def test_only_the_first_tokens_count(engine, tiny_model_dir):
    found = EngineEmbedder(engine, most_tokens=5).embed(TEXTS[2:])[0]
    np.testing.assert_allclose(found, reference(tiny_model_dir, TEXTS[2], most=5)[0], atol=2e-5)


def test_a_stored_prefix_does_not_shorten_the_mean(tiny_model_dir):
    with Engine.load(tiny_model_dir, dtype="float32") as fresh:
        fresh.generate(Request(prompt=TEXTS[2], sampling=SamplingParams(max_tokens=2)))
        found = fresh.submit_embedding(TEXTS[2]).result()
    np.testing.assert_allclose(found, reference(tiny_model_dir, TEXTS[2])[0], atol=2e-5)


def test_embeddings_run_beside_other_requests(engine, tiny_model_dir):
    alone = engine.generate(Request(prompt=TEXTS[0], sampling=SamplingParams(max_tokens=20)))
    running = engine.submit(Request(prompt=TEXTS[0], sampling=SamplingParams(max_tokens=20)))
    embedded = [engine.submit_embedding(text) for text in TEXTS * 10]
    scored = engine.submit_score(ScoreRequest(prompt=TEXTS[0], completion="x"))
    for future, text in zip(embedded, TEXTS * 10, strict=True):
        np.testing.assert_allclose(future.result(), reference(tiny_model_dir, text)[0], atol=2e-5)
    assert running.result().text == alone.text
    assert len(scored.result().logprobs) == 1


def test_an_embedding_is_counted(tiny_model_dir):
    events = []
    with Engine.load(tiny_model_dir, dtype="float32") as fresh:
        fresh.subscribe(events.append)
        EngineEmbedder(fresh, origin=Origin(role="librarian")).embed(TEXTS)
        (row,) = fresh.ledger()
    tokens = sum(reference(tiny_model_dir, text)[1] for text in TEXTS)
    assert (row["role"], row["calls"], row["prompt_tokens"]) == ("librarian", 3, tokens)
    assert row["generated_tokens"] == 0
    assert row["flops"] > 0
    assert {event.kind for event in events} == {"embed"}


def test_embedding_without_packed_passes(engine, tiny_model_dir, monkeypatch):
    from docendo.agents import _serving

    monkeypatch.setattr(_serving, "_packed", lambda *_: "this test says so")
    with Engine.load(tiny_model_dir, dtype="float32") as slow:
        found = EngineEmbedder(slow).embed(TEXTS)
    np.testing.assert_allclose(found, EngineEmbedder(engine).embed(TEXTS), atol=2e-5)


def test_what_cannot_be_embedded_is_refused(engine):
    with pytest.raises(ConfigError):
        engine.submit_embedding("")
    with pytest.raises(ConfigError, match="most_tokens"):
        engine.submit_embedding([7] * (engine.max_length + 1))
    with pytest.raises(ConfigError, match="no token id"):
        engine.submit_embedding([10**9])
    with pytest.raises(ConfigError, match="most_tokens is 0"):
        EngineEmbedder(engine, most_tokens=0)


def test_fingerprints_differ_by_what_changes_vectors(engine):
    same = EngineEmbedder(engine).fingerprint
    assert EngineEmbedder(engine, origin=Origin(role="x")).fingerprint == same
    assert EngineEmbedder(engine, most_tokens=9).fingerprint != same


def test_an_engine_is_an_embedder_of_a_memory(engine):
    with Blackboard.open(":memory:") as board:
        memory = VectorMemory(board, EngineEmbedder(engine))
        author = Author(agent="t", role="teacher")
        for text in TEXTS:
            memory.write(text, author=author, key=text[:20])
        (found,) = memory.read(TEXTS[1], Budget(entries=1))
        assert (found.text, found.score) == (TEXTS[1], pytest.approx(1.0, abs=1e-4))


# --- sentence models -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder_dir(tiny_model_dir, tmp_path_factory):
    """A random tiny encoder with the tiny model's tokenizer."""
    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=512,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_padding_does_not_change_a_sentence(encoder_dir):
    embedder = SentenceEmbedder.load(encoder_dir)
    together = embedder.embed(TEXTS * 20)
    assert together.shape == (60, 16)
    for number, text in enumerate(TEXTS):
        np.testing.assert_allclose(together[number], embedder.embed([text])[0], atol=1e-5)
    assert len(embedder.embed([])) == 0


def test_a_folder_with_another_pooling_is_refused(encoder_dir, tmp_path):
    folder = shutil.copytree(encoder_dir, tmp_path / "cls")
    (folder / "1_Pooling").mkdir()
    modes = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    with pytest.raises(ConfigError, match="pools by pooling_mode_cls_token"):
        SentenceEmbedder.load(folder)


def test_a_folder_without_a_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFound):
        SentenceEmbedder.load(tmp_path)


# --- reranking -------------------------------------------------------------------------------------


def test_the_reranker_is_the_odds_of_yes(engine):
    reranker = EngineReranker(engine)
    query, texts = "how to add?", ["carry the one", "the river"]
    found = reranker.rerank(query, texts)
    for score, text in zip(found, texts, strict=True):
        asked = (
            {
                "role": "user",
                "content": f"Text:\n{text}\n\nQuestion:\n{query}\n\n"
                "Does the text help to answer the question? Answer yes or no.",
            },
        )
        yes, no = (
            math.fsum(engine.score(ScoreRequest(prompt=asked, completion=answer)).logprobs)
            for answer in ("yes", "no")
        )
        assert score == pytest.approx(yes - no, abs=1e-3)
    assert reranker.rerank(query, []) == []


def test_likelihood_is_the_mean_of_the_query(engine):
    (found,) = LikelihoodReranker(engine, ask="Read: {text}").rerank("how to {text}?", ["carry"])
    prompt = ({"role": "user", "content": "Read: carry"},)
    logprobs = engine.score(ScoreRequest(prompt=prompt, completion="how to {text}?")).logprobs
    assert found == pytest.approx(sum(logprobs) / len(logprobs), abs=1e-3)
    with pytest.raises(ConfigError, match="lacks a place"):
        LikelihoodReranker(engine, ask="Write.")


def test_texts_cannot_fill_in_the_other_place(engine):
    reranker = EngineReranker(engine, ask="Q: {query} T: {text}")
    (message,) = reranker._prompt("is {text} it?", "see {query}")
    assert message["content"] == "Q: is {text} it? T: see {query}"


def test_a_reranker_needs_scores_and_places(engine):
    with pytest.raises(ConfigError, match="lacks a place"):
        EngineReranker(engine, ask="{text}?")
    with pytest.raises(ConfigError, match="answers"):
        EngineReranker(engine, answers=("yes", ""))
    mute = ScriptedEngine(lambda _: "yes")
    mute.capabilities = Capabilities(features=frozenset({"messages"}))
    with pytest.raises(CapabilityError, match="reranking needs score"):
        EngineReranker(mute)


def test_an_engine_reranks_a_memory(engine):
    with Blackboard.open(":memory:") as board:
        retriever = TwoStageRetriever(
            {"words": FullTextMemory(board)}, EngineReranker(engine), rerank_only=True
        )
        author = Author(agent="t", role="teacher")
        for text in ("carry the one", "carry the two", "carry on"):
            retriever.write(text, author=author, key=text)
        found = retriever.read("carry", Budget(entries=3))
        scores = EngineReranker(engine).rerank("carry", [entry.text for entry in found])
        assert [entry.score for entry in found] == pytest.approx(scores, abs=1e-3)
        assert scores == sorted(scores, reverse=True)
