"""Keeps tests off the network: nothing may connect beyond this machine.

`tests/conftest.py` loads this file and puts its folder on PYTHONPATH, so that Python processes which
a test starts are guarded as well. It is an audit hook, which code under test cannot undo.
"""

import ipaddress
import sys

attempts: list[str] = []


class NetworkBlocked(RuntimeError):
    """A test tried to reach the network. Not an OSError, because code that retries would swallow it."""


def _is_here(host: object) -> bool:
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    text = host.decode(errors="replace") if isinstance(host, bytes) else str(host)
    try:
        return ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _refuse_network(event: str, args: tuple[object, ...]) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]
        host = address[0] if isinstance(address, tuple) else None  # else a Unix socket, or already connected
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    if not _is_here(host):
        attempts.append(f"{event} {host!r}")
        raise NetworkBlocked(
            f"{event} to {host!r}: tests may not use the network; pull models before (make test does)"
        )


sys.addaudithook(_refuse_network)
