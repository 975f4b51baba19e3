"""Which commit docendo runs from."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit() -> str | None:
    """The commit of the checkout that docendo runs from, with "+" if files differ from it; else None."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "docendo" / "registry.py").is_file():  # installed, perhaps into another repository
        return None

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *command], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
