"""Uploading an adapter to the Hugging Face hub: only when it is asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docendo.distill.adapters._adapter import Adapter, opened
from docendo.distill.adapters._export import export_adapter
from docendo.errors import ConfigError, InfrastructureError


def push_to_hub(
    adapter: Adapter | str | Path,
    repo_id: str,
    *,
    private: bool = True,
    verdict: Mapping[str, Any] | None = None,
    message: str | None = None,
    api: Any = None,
) -> str:
    """Uploads an adapter as a PEFT folder, in one commit. Nothing else in docendo uploads anything.

    Args:
        adapter: The adapter, or its folder; every file is checked first.
        repo_id: Repository on the hub, such as "me/sum"; made if it does not exist.
        private: Whether a new repository is private.
        verdict: Evidence for the model card.
        message: Message of the commit.
        api: A `huggingface_hub.HfApi`; by default one with the user's own endpoint and token.

    Returns:
        Address of the commit.

    Raises:
        ConfigError: if the hub refuses the name, or nobody is logged in.
        InfrastructureError: if the hub cannot be reached, as when HF_HUB_OFFLINE is set.
        IntegrityError: if a file does not match the adapter's manifest.

    Example:
        >>> push_to_hub("adapters/sum", "me/sum")  # doctest: +SKIP
        'https://huggingface.co/me/sum/commit/...'
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    # The root of what its HTTP client raises; which client that is depends on the version.
    transport: type[Exception] = HfHubHTTPError.__bases__[0]

    checked = opened(adapter)
    hub = HfApi() if api is None else api
    with tempfile.TemporaryDirectory() as scratch:
        folder = export_adapter(checked, Path(scratch) / "adapter", verdict=verdict)
        try:
            hub.create_repo(repo_id, repo_type="model", private=private, exist_ok=True)
            commit = hub.upload_folder(
                repo_id=repo_id,
                repo_type="model",
                folder_path=folder,
                commit_message=message or f"Adapter {checked.name} {checked.sha256[:12]}",
            )
        except HFValidationError as error:
            raise ConfigError(f"the repository is {repo_id!r}", expected="OWNER/NAME") from error
        except (HfHubHTTPError, LocalTokenNotFoundError) as error:
            raise ConfigError(
                f"the hub refuses {repo_id!r} ({_first_line(error)})",
                remedy="log in with `hf auth login` and check the name",
            ) from error
        except (transport, OSError) as error:
            raise InfrastructureError(
                f"the hub cannot be reached ({_first_line(error)}), nothing was uploaded; "
                "unset HF_HUB_OFFLINE or check the network"
            ) from error
    return str(commit.commit_url)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
