"""`mfw ledger keygen`: the key that signs the checkpoints of a ledger."""

from pathlib import Path

from app.cli.exits import ExitCode
from app.cli.note_keys import write_pair
from app.cli.output import Refused, console, plain, write_json
from app.core.log_keys import is_origin
from app.core.notes import SignerKey


def run_keygen(out: Path, *, origin: str, as_json: bool) -> None:
    """Make the key of a log. Raises `Refused`; never touches a file that is there."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not is_origin(origin):
        raise Refused(
            ExitCode.USAGE,
            f"`{origin[:80]}` is no name of a log",
            fix="take a URL without its scheme, such as `firewall.example.com/ledger`: no spaces, no `+`",
        )
    key = SignerKey.of(origin, Ed25519PrivateKey.generate())
    public = write_pair(key, out)
    if as_json:
        write_json({"origin": origin, "private_key": str(out), "public_key": str(public), "vkey": key.verifier.text})
        return
    show = console()
    show.print(plain(f"{out}  the private key: keep it where secrets are kept"), soft_wrap=True)
    show.print(plain(f"{public}  the public key, for whoever verifies the ledger:"), soft_wrap=True)
    show.print(plain(key.verifier.text), soft_wrap=True)
    show.print(plain(f"next: MFW_LEDGER__ORIGIN={origin} MFW_LEDGER__SIGNING_KEY_FILE={out.resolve()}"), soft_wrap=True)
