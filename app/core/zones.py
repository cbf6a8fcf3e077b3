"""Time zones by their names in the IANA database, from the package tzdata: one version for all replicas and for replay.

Python's own lookup prefers the files of the host, and two hosts can disagree on when an hour was.
"""

from functools import lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """Give every name there is."""
    return frozenset((files("tzdata") / "zones").read_text("ascii").split())


@lru_cache(maxsize=1024)  # there are some six hundred
def iana_zone(name: str) -> ZoneInfo | None:
    """Give the zone of that name, None if there is none."""
    if name not in zone_names():
        return None
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as content:
        return ZoneInfo.from_file(content, key=name)
