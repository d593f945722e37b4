"""A kubectl that can only port-forward, for tests: svc/NAME of NAMESPACE to a local port, as SERVICES (JSON) tells.

SERVICES is {"NAMESPACE/NAME:PORT": local port}; each start is noted in CALLS (a file), with its process id.
"""

import json
import os
import socket
import sys
import threading
from pathlib import Path


def main() -> None:
    arguments = sys.argv[1:]
    namespace, (service, ports) = arguments[arguments.index("-n") + 1], arguments[-2:]
    local, port = ports.split(":")
    with Path(os.environ["CALLS"]).open("a") as calls:
        calls.write(json.dumps([os.getpid(), *arguments]) + "\n")
    target = json.loads(os.environ["SERVICES"]).get(f"{namespace}/{service.removeprefix('svc/')}:{port}")
    if target is None:
        sys.exit(f'Error from server (NotFound): services "{service}" not found')
    server = socket.create_server(("127.0.0.1", int(local)))
    while True:
        here, _ = server.accept()
        there = socket.create_connection(("127.0.0.1", target))
        for one, other in ((here, there), (there, here)):
            threading.Thread(target=pump, args=(one, other), daemon=True).start()


def pump(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(1 << 16):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        pass


main()
