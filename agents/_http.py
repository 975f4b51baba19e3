"""HTTP to an OpenAI-compatible server: retries, streams, and every failure as one line of the right class.

The `openai` package is not used: it takes keys, organisation and headers from the environment and would send
them to whatever server is asked, tells the server about the machine, and takes a second to import. What is
needed of it, retries and server-sent events, is this file.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

from docendo.errors import (
    AdapterError,
    ConfigError,
    DocendoError,
    InfrastructureError,
    MissingExtra,
    ModelNotFound,
)

try:
    import httpx2
except ImportError:
    raise MissingExtra("httpx2", "openai") from None

#: Seconds before the first further try, and the most before any.
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
#: A server that asks for more patience than this is taken to be out of order.
_LONGEST_RETRY_AFTER = 60.0
_CONNECT_SECONDS = 10.0
_RETRIED = frozenset({408, 409, 425, 429})


def _has_port(parts: SplitResult) -> bool:
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


class ServerClient:
    """Posts JSON to one server. Lives in one event loop."""

    def __init__(self, base_url: str, *, api_key: str | None, retries: int) -> None:
        """Opens nothing yet.

        Args:
            base_url: Such as "http://127.0.0.1:8000/v1".
            api_key: Sent as a bearer token, or None.
            retries: Further tries after a refused connection, a 429 or a 5xx.

        Raises:
            ConfigError: if the address is none.
        """
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not _has_port(parts):
            raise ConfigError(
                f"base_url is {base_url!r}", expected="an address such as http://127.0.0.1:8000/v1"
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError(
                "base_url holds more than an address and a path",
                expected="http://host:port/v1",
                remedy="pass the key as api_key",
            )
        self.base_url = base_url.rstrip("/")
        self._root = f"{parts.scheme}://{parts.netloc}"
        self._retries = retries
        self._random = random.Random()  # jitter must not move the user's generator
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            # How long an answer may take is the request's affair; see its timeout.
            timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=not local,  # a proxy for the outside world is none for this machine
        )

    async def post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Posts and returns the answer's JSON object."""
        response = await self._send(f"{self.base_url}{path}", path, body)
        return self._json(response.text)

    async def command(self, path: str, body: Mapping[str, Any]) -> None:
        """Posts to the server itself, beside its OpenAI interface; the answer may be anything."""
        await self._send(f"{self._root}{path}", path, body)

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any]]:
        """Posts and yields the JSON objects of the answer's events as they arrive."""
        response = await self._send(f"{self.base_url}{path}", path, body, stream=True)
        try:
            # Not aiter_lines, which also splits at U+2028 and others that JSON text may hold.
            source = aiter(httpx2.EventSource(response, max_event_size=None))
            async with aclosing(cast("AsyncGenerator[httpx2.ServerSentEvent]", source)) as events:
                async for event in events:
                    if event.data == "[DONE]":
                        return
                    value = self._json(event.data)
                    if event.event == "error" or value.get("error"):
                        raise InfrastructureError(
                            f"the server at {self.base_url} failed while it answered: {_message(event.data)}"
                        )
                    yield value
        except httpx2.HTTPError as error:
            raise InfrastructureError(
                f"the connection to the server at {self.base_url} broke while it answered: {_reason(error)}"
            ) from error
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def _send(
        self, url: str, path: str, body: Mapping[str, Any], *, stream: bool = False
    ) -> httpx2.Response:
        # Not httpx's own encoder: model-written text may hold lone surrogates, which only escapes carry.
        content = json.dumps(body, allow_nan=False).encode("ascii")
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            request = self._client.build_request(
                "POST", url, content=content, headers={"Content-Type": "application/json"}
            )
            try:
                response = await self._client.send(request, stream=stream)
                if response.status_code == 200:
                    return response
                try:
                    text = (await response.aread()).decode(errors="replace")
                finally:
                    await response.aclose()
            except httpx2.TransportError as error:
                if last:
                    raise InfrastructureError(
                        f"cannot reach the server at {self.base_url}: {_reason(error)} "
                        f"({_tries(attempt + 1)}); start it, or correct base_url."
                    ) from error
                await asyncio.sleep(self._pause(attempt))
                continue
            asked = _retry_after(response.headers)
            status = response.status_code
            if last or not _may_pass(status, asked):
                raise self._refusal(status, path, body, _message(text), attempt + 1)
            await asyncio.sleep(self._pause(attempt) if asked is None else asked)
        raise InfrastructureError(f"no try was made to reach the server at {self.base_url}")

    def _pause(self, attempt: int) -> float:
        # Jitter, so that callers that failed together do not come back together.
        return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0**attempt) * self._random.uniform(0.5, 1.0)

    def _json(self, text: str) -> Mapping[str, Any]:
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise InfrastructureError(
                f"the server at {self.base_url} answered {_short(text)!r}; expected a JSON object of the "
                "OpenAI interface; correct base_url (it often ends with /v1)."
            )
        return value

    def _refusal(
        self, status: int, path: str, body: Mapping[str, Any], message: str, tries: int
    ) -> DocendoError:
        where = f"the server at {self.base_url}"
        if status in (401, 403):
            return ConfigError(f"{where} refuses access ({status}: {message})", remedy="pass its api_key")
        if "lora_name" in body and status < 500:
            return AdapterError(
                f"{where} refuses the adapter {body['lora_name']!r} ({status}: {message})",
                remedy="let it load adapters while it runs, and put them where it sees them",
            )
        if status == 404:
            model = str(body.get("model", ""))
            if model and ("model" in message.lower() or model in message):
                return ModelNotFound(
                    f"{where} has no model {model!r} ({message})",
                    remedy=f"see {self.base_url}/models for the names that it serves",
                )
            return ConfigError(
                f"{where} has no {path} ({message})",
                expected="an OpenAI-compatible server",
                remedy="correct base_url (it often ends with /v1)",
            )
        if status < 500 and status not in _RETRIED:
            return ConfigError(f"{where} refuses the request ({status}: {message})")
        return InfrastructureError(f"{where} answered {status} ({_tries(tries)}): {message}")


def _may_pass(status: int, asked: float | None) -> bool:
    """Whether a failure may be over in a moment."""
    if asked is not None and asked > _LONGEST_RETRY_AFTER:
        return False
    return status >= 500 or status in _RETRIED


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait: a number or a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _message(text: str) -> str:
    """What a server says of an error: each one puts it elsewhere."""
    try:
        found = json.loads(text)
    except ValueError:
        return _short(text)
    for key in ("error", "message", "detail", "msg"):
        while isinstance(found, dict) and found.get(key):
            found = found[key]
        if isinstance(found, list) and found:
            found = found[0]
    return _short(found if isinstance(found, str) else json.dumps(found))


def _short(text: str, limit: int = 300) -> str:
    line = " ".join(text.split())
    return (line if len(line) <= limit else line[: limit - 1] + "…").rstrip(".") or "no message"


def _reason(error: Exception) -> str:
    return _short(str(error)) if str(error) else type(error).__name__


def _tries(count: int) -> str:
    return f"{count} tries" if count > 1 else "1 try"
