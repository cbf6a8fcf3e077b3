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
    if ca_file is not None or any(os.environ.get(name) for name in _VARIABLES):
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
