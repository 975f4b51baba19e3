"""Real servers on this machine, for what must hold for every engine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def running(command: Sequence[str | Path], log: Path, *, seconds: float = 120) -> Iterator[str]:
    """Runs a server on a free port of this machine, and yields its address once it answers.

    `{port}` in the command is replaced. The server is asked to stop, and killed if it does not.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part).format(port=port) for part in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        deadline = time.monotonic() + seconds
        while not _answers(f"http://127.0.0.1:{port}/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the server did not start:\n{log.read_text()[-2000:]}", pytrace=False)
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="session")
def transformers_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`transformers serve`, which loads the model folder that a request names."""
    module = "transformers.cli.transformers"
    options = ("--host", "127.0.0.1", "--port", "{port}", "--device", "cpu", "--dtype", "float32")
    log = tmp_path_factory.mktemp("transformers-serve") / "log.txt"
    with running([sys.executable, "-m", module, "serve", *options], log) as address:
        yield address


@pytest.fixture(scope="session")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """llama.cpp's server, if this machine has one: no package brings it ready to run."""
    program, model = os.environ.get("DOCENDO_LLAMA_SERVER"), os.environ.get("DOCENDO_LLAMA_GGUF")
    if not program or not model:
        pytest.skip(
            "needs DOCENDO_LLAMA_SERVER (the program llama-server) and DOCENDO_LLAMA_GGUF (a chat model)"
        )
    log = tmp_path_factory.mktemp("llama-server") / "log.txt"
    options = ("-c", "8192", "-np", "4", "-t", "1", "--host", "127.0.0.1", "--port", "{port}")
    with running([program, "-m", model, *options], log) as address:
        yield address


@pytest.fixture(scope="session")
def tiny_adapter_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA for the tiny model with random weights large enough to change its text."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft 0.21 reads a property that transformers 5 has renamed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
        config = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
        folder = tmp_path_factory.mktemp("adapters") / "tiny"
        get_peft_model(model, config).save_pretrained(folder)
    return folder
