"""`kill -9` under load; `python -m bench.crash --times 200` is the long form."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from bench.crash import crash

TIMES = int(os.environ.get("MFW_TEST_CRASHES", "8"))


@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * TIMES)
def test_no_acknowledged_decision_is_lost():
    scratch = Path(tempfile.mkdtemp(prefix="mfw-test-"))
    try:
        told = crash(times=TIMES, scratch=scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    assert len(told.decisions) >= TIMES
