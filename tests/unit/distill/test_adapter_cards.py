"""Model cards say what was recorded and nothing else; uploads happen only when they are asked for."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from peft import LoraConfig
from safetensors.torch import save_file

from docendo.distill import Adapter, push_to_hub
from docendo.distill.adapters._adapter import model_card
from docendo.errors import ConfigError, InfrastructureError, IntegrityError
from docendo.manifest import write_manifest

FACTS: dict[str, Any] = {
    "format": 1,
    "name": "sum",
    "created": "2026-01-01T00:00:00+00:00",
    "base": {"name": "tiny", "fingerprint": "b" * 64},
    "parent": None,
    "method": {
        "name": "sft",
        "objective": [{"name": "cross_entropy", "weight": 1.0}, {"name": "kl", "weight": 0.5}],
    },
    "config": {
        "seed": 3,
        "lora_r": 2,
        "lora_alpha": 4,
        "target_modules": "all-linear",
        "learning_rate": 0.001,
        "lr_scheduler_type": "linear",
        "per_device_train_batch_size": 4,
    },
    "metadata": {},
    "data": {"digest": "d" * 64, "items": 2, "examples": 3, "completion_tokens": 1200},
    "lineage": {"traces": ["a", "b"], "posts": []},
    "metrics": {"steps": 5, "first_loss": 2.0, "final_loss": 0.25},
    "losses": [],
    "versions": {"torch": "2"},
}


@pytest.fixture
def adapter(tmp_path: Path) -> Adapter:
    folder = tmp_path / "sum"
    folder.mkdir()
    tensors = {"A": torch.ones(2, 3), "B": torch.ones(4, 2)}
    save_file(
        {f"base_model.model.up.lora_{side}.weight": one for side, one in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    LoraConfig(r=2, lora_alpha=4, target_modules=["up"]).save_pretrained(folder)
    (folder / "README.md").write_text("an older card")
    write_manifest(folder, FACTS)
    return Adapter.open(folder)


def rows(card: str) -> dict[str, str]:
    lines = [line for line in card.splitlines() if line.startswith("| ") and line != "| | |"]
    return dict(line[2:-2].split(" | ", 1) for line in lines)  # type: ignore[misc]


def test_a_card_states_the_recorded_facts() -> None:
    found = rows(model_card(FACTS))
    assert found == {
        "Base model": "tiny (fingerprint `bbbbbbbbbbbbbbbb`)",
        "Parent adapter": "none",
        "Method": "sft",
        "Objective": "cross_entropy + 0.5 kl",
        "Training data": "3 examples of 2 items (digest `dddddddddddddddd`)",
        "Learnt from": "2 recorded turns",
        "Completion tokens": "1,200 per epoch",
        "Optimiser steps": "5 of 4 examples",
        "Learning rate": "0.001, linear",
        "Loss": "2.0000 at the first step, 0.2500 at the last",
        "LoRA": "rank 2, alpha 4, on all-linear",
        "Seed": "3",
        "Created": "2026-01-01T00:00:00+00:00",
        "Made with": "torch 2",
    }


def test_a_card_invents_nothing() -> None:
    card = model_card({**FACTS, "method": {"name": "grpo"}, "metrics": {}, "lineage": {}, "versions": {}})
    found = rows(card)
    assert not found.keys() & {"Loss", "Objective", "Learnt from", "Optimiser steps", "Data licence"}
    assert "license" not in card
    assert "rewards" in card
    assert "No evaluation was recorded" in card
    # Older manifests name no method.
    older = {key: value for key, value in FACTS.items() if key not in ("method", "lineage", "metadata")}
    assert "completions of chat examples" in model_card(older)


def test_a_card_holds_licences_figures_and_the_verdict() -> None:
    metadata = {
        "license": "apache-2.0",
        "data_license": "cc-by-4.0",
        "evaluation": {"accuracy on sums": {"value": 0.5, "interval": [0.4, 0.6], "n": 90}, "odd": "x"},
    }
    verdict = {
        "verdict": "better",
        "reason": "p is small",
        "before": 0.25,
        "after": 0.5,
        "before_name": "base",
        "before_interval": [0.2, 0.3],
        "difference": 0.25,
        "interval": [0.1, 0.4],
        "p_value": 0.00123,
        "n": 90,
    }
    card = model_card({**FACTS, "metadata": metadata}, verdict=verdict)
    assert 'license: "apache-2.0"' in card.split("---")[1]
    found = rows(card)
    assert found["Data licence"] == "cc-by-4.0"
    assert found["accuracy on sums"] == "0.5 (0.4 to 0.6), n = 90"
    assert found["before (base)"] == "0.25 (0.2 to 0.3), n = 90"
    assert found["after"] == "0.5, n = 90"
    assert found["difference"] == "0.25 (0.1 to 0.4), n = 90"
    assert found["p"] == "0.00123"
    assert found["verdict of the promotion"] == "better. p is small"
    assert "odd" not in found
    assert "No evaluation" not in card
    # A gate's verdict holds the comparison.
    gate = {"verdict": "better", "reason": "p is small", "comparison": verdict, "margin": 0.0}
    assert model_card({**FACTS, "metadata": metadata}, verdict=gate) == card


def test_names_cannot_break_header_or_table() -> None:
    base = {"name": 'x"\n---\nlicense: mit', "fingerprint": "b" * 64}
    card = model_card({**FACTS, "base": base, "metadata": {"data_license": "a | b\nc"}})
    header = card.split("\n---\n")[0]
    assert (
        json.loads(next(line for line in header.splitlines() if "base_model" in line).split(": ", 1)[1])
        == (base["name"])
    )
    assert "license: mit" not in header.splitlines()
    assert "| Data licence | a \\| b c |" in card


# --- the hub -------------------------------------------------------------------------------------


def test_an_upload_holds_the_checked_files_and_a_new_card(adapter: Adapter) -> None:
    sent: dict[str, bytes] = {}
    api = create_autospec(HfApi, instance=True)

    def upload(*, folder_path: Path, **_: Any) -> Any:
        sent.update({file.name: file.read_bytes() for file in Path(folder_path).iterdir()})
        return SimpleNamespace(commit_url="http://hub/me/sum/commit/1")

    api.upload_folder.side_effect = upload
    verdict = {"verdict": "better", "reason": "more items"}
    assert push_to_hub(adapter, "me/sum", api=api, verdict=verdict) == "http://hub/me/sum/commit/1"
    api.create_repo.assert_called_once_with("me/sum", repo_type="model", private=True, exist_ok=True)
    assert sent.keys() == {"README.md", "adapter_config.json", "adapter_model.safetensors", "manifest.json"}
    assert sent["adapter_model.safetensors"] == (adapter.path / "adapter_model.safetensors").read_bytes()
    assert b"better. more items" in sent["README.md"]
    assert (adapter.path / "README.md").read_text() == "an older card"


def test_a_damaged_adapter_is_not_uploaded(adapter: Adapter) -> None:
    (adapter.path / "README.md").write_text("changed")
    api = create_autospec(HfApi, instance=True)
    with pytest.raises(IntegrityError):
        push_to_hub(adapter, "me/sum", api=api)
    assert api.method_calls == []


@pytest.mark.parametrize("name", ["", "a/b/c", "me/..", "me/ sum"])
def test_a_name_that_the_hub_has_no_room_for_is_one_clear_line(adapter: Adapter, name: str) -> None:
    with pytest.raises(ConfigError, match="OWNER/NAME") as caught:
        push_to_hub(adapter, name, api=HfApi(endpoint="http://127.0.0.1:9"))
    assert "\n" not in str(caught.value)


def test_without_network_nothing_is_uploaded_and_it_says_so(adapter: Adapter) -> None:
    """The tests run with HF_HUB_OFFLINE set, so nothing leaves the machine here."""
    with pytest.raises(InfrastructureError, match=r"cannot be reached .* nothing was uploaded") as caught:
        push_to_hub(adapter, "me/sum")
    assert "\n" not in str(caught.value)


@contextmanager
def hub(status: int) -> Iterator[str]:
    """A server on this machine that answers every request with one status."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_the_hub_refuses_is_one_clear_line(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    from huggingface_hub.utils import _http

    _http.close_session()
    try:
        with hub(401) as address, pytest.raises(ConfigError, match="refuses 'me/sum'") as caught:
            push_to_hub(adapter, "me/sum", api=HfApi(endpoint=address, token="hf_not_a_real_one"))
    finally:
        _http.close_session()
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, HfHubHTTPError)
