"""Ports for what tests start: each process that runs tests hands out its own, and the kernel hands out none of them.

A port that the kernel gave is free again until it is bound, and may meanwhile be given to another process, or to a
connection that goes out.
"""

import itertools
import os
import secrets
import socket

# Above the ports that services are known by, below those that Linux gives to who asks for any (`ip_local_port_range`).
FIRST, BEHIND = 12_000, 32_000


def _mine() -> range:
    """The ports of this process: pytest-xdist numbers its workers, `gw0` and so on."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    each = (BEHIND - FIRST) // workers
    return range(FIRST + number * each, FIRST + (number + 1) * each)


def _handed_out() -> "itertools.cycle[int]":
    """Every port of this process, from anywhere on: another run of the tests on this machine begins elsewhere."""
    mine = _mine()
    begin = secrets.randbelow(len(mine))
    return itertools.cycle([*mine[begin:], *mine[:begin]])


_PORTS = _handed_out()


def free_port() -> int:
    """A port of the loopback that nobody has, and that nobody else is told of."""
    for port in _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("a cycle has no end")
