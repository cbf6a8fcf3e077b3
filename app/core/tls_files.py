"""Which files TLS is made with."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the PEM files lie.

    With a `client_ca` clients are asked for a certificate; with `required` who has none is refused.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    required: bool = False

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.certificate, self.key, *((self.client_ca,) if self.client_ca is not None else ()))
