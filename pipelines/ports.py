"""Free ports of this machine's loopback address."""

import socket
from contextlib import suppress

HOST = "127.0.0.1"
LOWEST, HIGHEST = 1024, 65535


def is_port(text: str) -> bool:
    """Return whether the text is a port number that a program without root rights may use."""
    return text.isdecimal() and LOWEST <= int(text) <= HIGHEST


def is_free(port: int) -> bool:
    """Return whether no program listens on this port of 127.0.0.1."""
    with socket.socket() as client:
        if client.connect_ex((HOST, port)) == 0:
            return False
    with suppress(OSError), socket.create_server((HOST, port)):
        return True
    return False


def free_port_near(port: int) -> int:
    """Return the first free port after `port`; after the highest port the search starts at the lowest."""
    return next(n for n in (*range(port + 1, HIGHEST + 1), *range(LOWEST, port)) if is_free(n))
