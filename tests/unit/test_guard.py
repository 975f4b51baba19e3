"""The tests' own guard against the network must hold, or the others prove less than they seem to."""

import asyncio
import socket
import subprocess
import sys

import pytest

ADDRESS = ("192.0.2.1", 80)  # reserved for documentation (RFC 5737): nobody answers there


def blocked() -> list[str]:
    """What the guard noticed; emptied, so that the test which provoked it does not fail for it."""
    attempts = sys.modules["docendo_test_guard"].attempts
    seen = list(attempts)
    attempts.clear()
    return seen


def test_connections_and_names_are_refused() -> None:
    with socket.socket() as plain, pytest.raises(RuntimeError, match="may not use the network"):
        plain.connect(ADDRESS)
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams, pytest.raises(RuntimeError):
        datagrams.sendto(b"x", ADDRESS)
    with pytest.raises(RuntimeError):
        socket.create_connection(("example.org", 80))
    assert len(blocked()) == 3


async def test_asyncio_is_refused() -> None:
    with pytest.raises(RuntimeError):
        await asyncio.open_connection(*ADDRESS)
    assert blocked()


def test_child_processes_are_refused() -> None:
    script = f"import socket; socket.create_connection({ADDRESS!r}, timeout=5)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "NetworkBlocked" in done.stderr


def test_loopback_is_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1])).close()
