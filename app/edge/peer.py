"""The other end of a connection, as the connection itself tells it: whatever a header says is told by somebody else."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peer:
    """Made once for each connection.

    `certificate` is the client's in DER where the service terminates TLS itself; the handshake has verified it.
    """

    address: str
    certificate: bytes | None = None
