"""Which authorities whoever opens a TLS connection believes."""

import os
import ssl
from pathlib import Path
from typing import Final

# By these OpenSSL is told of other authorities than those that came with the machine.
_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def trust(ca_file: str | Path | None = None) -> ssl.SSLContext:
    """Belief in the authorities of a PEM file alone, without one in those of this machine. Raises OSError.

    Those that somebody names, here or in the environment, are believed without the demands on their form that Python
    makes since 3.13: authorities of clusters, Amazon's among them, name no key identifiers. Chain, validity and name
    are looked at as ever.
    """
    context = ssl.create_default_context(cafile=ca_file)
    for flag in not_demanded(named=ca_file is not None):
        context.verify_flags &= ~flag
    return context


def not_demanded(*, named: bool) -> list[ssl.VerifyFlags]:
    """What is not asked of authorities that somebody names, there or in the environment."""
    named = named or any(os.environ.get(name) for name in _VARIABLES)
    return [ssl.VERIFY_X509_STRICT] if named else []
