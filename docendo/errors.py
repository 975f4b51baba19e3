"""Every error that docendo raises on purpose.

An error says in one line what was seen, what was expected and what to do. The class says who is to
blame, because an infrastructure failure must never be counted as a wrong answer:

* `UserError`: the input or the configuration is wrong. The command line prints the line without a
  traceback and exits with code 2.
* `ModelFailure`: a model produced something that cannot be used (NaN logits, an empty verdict).
* `TaskFailure`: an answer could not be scored, because the task's scorer failed on it.
* `InfrastructureError`: the machine failed (disk full, database locked, engine closed).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Self


class DocendoError(Exception):
    """Root of all errors raised by docendo.

    Attributes:
        code: A stable, machine-readable name of the kind of error.
        exit_code: What the command line exits with.
    """

    code = "error"
    exit_code = 1


class UserError(DocendoError):
    """The input or the configuration is wrong; the message names the field and the remedy."""

    code = "user"
    exit_code = 2

    def __init__(self, seen: str, *, expected: str | None = None, remedy: str | None = None) -> None:
        """Builds the one line: `seen; expected ...; remedy`."""
        self.seen, self.expected, self.remedy = seen, expected, remedy
        parts = [seen.rstrip(".")]
        if expected:
            parts.append(f"expected {expected.rstrip('.')}")
        if remedy:
            parts.append(remedy.rstrip("."))
        super().__init__("; ".join(parts) + ".")


class ConfigError(UserError):
    """A setting has a value that cannot be used."""

    code = "config"


class DataError(UserError):
    """A data file or an item is malformed or empty."""

    code = "data"


class ModelNotFound(UserError):
    """A model name is neither in the catalogue, nor a local folder, nor a reachable hub id."""

    code = "model_not_found"


class LicenseNotAccepted(UserError):
    """A model's terms have to be accepted before it is fetched."""

    code = "license"


class AdapterError(UserError):
    """An adapter folder is damaged, unsupported, or belongs to another base model."""

    code = "adapter"


class CapabilityError(UserError):
    """An engine lacks something that an agent or a request needs."""

    code = "capability"

    @classmethod
    def lacking(cls, features: Iterable[str], *, engine: str, by: str) -> Self:
        """The error that says what `engine` lacks and who (`by`) needs it."""
        return cls(
            f"{by} needs {', '.join(sorted(features))}, which the engine {engine!r} lacks",
            expected="an engine that offers it",
            remedy="use docendo.agents.Engine, or do without",
        )


class ResumeError(UserError):
    """A run cannot be resumed, for example because its configuration has changed."""

    code = "resume"


class LeakError(UserError):
    """Held-out items were about to reach training data, or gold was about to reach an agent."""

    code = "leak"


class AccessError(UserError):
    """A role reads or writes where it has no right to."""

    code = "access"


class MissingExtra(UserError):
    """An optional dependency is needed and not installed."""

    code = "missing_extra"

    def __init__(self, package: str, extra: str) -> None:
        """Names the missing package and the extra that brings it."""
        super().__init__(
            f"the package {package!r} is not installed",
            remedy=f"install it with: pip install 'docendo[{extra}]'",
        )


class ModelFailure(DocendoError):
    """A model produced something that cannot be used."""

    code = "model"


class TaskFailure(DocendoError):
    """A task's scorer failed on an answer, which is therefore neither right nor wrong."""

    code = "task"


class SilentNoOp(DocendoError):
    """Training changed nothing, or what is served is not what was trained."""

    code = "silent_no_op"


class InfrastructureError(DocendoError):
    """The machine or a service failed; the work can be resumed."""

    code = "infrastructure"


class StorageError(InfrastructureError):
    """A file or database cannot be written or read; the message names the path.

    It exits with 2: the user mends it with another folder or more space, and nothing was half-written.
    """

    code = "storage"
    exit_code = 2


class IntegrityError(InfrastructureError):
    """Stored data does not match its checksum; the message names the file or record."""

    code = "integrity"


class VersionConflict(InfrastructureError):
    """A key was written by somebody else since it was read: normal where writers share keys.

    Attributes:
        key: The key.
        expected: The version that the writer had seen.
        current: The newest version (`docendo.memory.Versioned`), or None if there is none.
    """

    code = "conflict"

    def __init__(self, key: str, *, expected: int, current: Any) -> None:
        """Names both versions."""
        self.key, self.expected, self.current = key, expected, current
        seen = (
            "no version"
            if current is None
            else f"version {current.version}, written by {current.author.agent!r}"
        )
        super().__init__(f"key {key!r} has {seen}; expected version {expected}; read it again and retry.")


class EngineClosed(InfrastructureError):
    """A request reached an engine that is closed, or was pending when it closed."""

    code = "engine_closed"


class DeadlineExceeded(InfrastructureError):
    """A request was not finished within its `timeout`."""

    code = "deadline"


def blame(error: BaseException) -> Literal["model", "task", "infrastructure"]:
    """Says who is to blame that an item has no verdict. What is not known is the machine's.

    Example:
        >>> blame(ModelFailure("the logits are not finite")), blame(ConnectionResetError())
        ('model', 'infrastructure')
    """
    if isinstance(error, ModelFailure):
        return "model"
    return "task" if isinstance(error, TaskFailure) else "infrastructure"
