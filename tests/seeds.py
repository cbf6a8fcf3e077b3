"""Where cases that are made at random begin."""

import os
import random


def seed() -> int:
    """In CI always the same, so that what is red there is red because of a change; elsewhere another each time."""
    return 0 if os.environ.get("MFW_REQUIRE_ALL") == "1" else random.SystemRandom().randrange(2**32)
