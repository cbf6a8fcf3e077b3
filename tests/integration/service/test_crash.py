"""kill -9 of anything under load; `python -m bench.crash --times 200` is the long form."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from bench.crash import What, crash

# How much longer than usual.
FACTOR = int(os.environ.get("MFW_TEST_CRASH_FACTOR", "1"))
PLAN = [What.POSTGRES, *[What.NETWORK] * 4, What.SERVICE, *[What.NETWORK] * 3, What.POSTGRES, What.SIGNER]


@pytest.mark.slow
@pytest.mark.timeout(900 * FACTOR)
def test_no_acknowledged_decision_is_lost():
    scratch = Path(tempfile.mkdtemp(prefix="mfw-test-"))
    try:
        told = crash(PLAN * FACTOR, scratch=scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    assert len(told.decisions) >= len(PLAN)
