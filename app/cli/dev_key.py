"""The API key of the development service: kept beside its database, so that the same curl line works on each start."""

import os
from pathlib import Path

from app.settings import PREFIX, default_state_dir


def key_file(state_dir: Path | None = None) -> Path:
    """Where the key is, below the state directory in force."""
    chosen = os.environ.get(f"{PREFIX}STATE_DIR")
    return (state_dir or (Path(chosen) if chosen else default_state_dir())) / "api-key"
