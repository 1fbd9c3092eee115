"""Look for: `1 process left behind` with its name and command line."""

import subprocess

import pytest

SERVERS = []


@pytest.mark.isolate(leak="fail")
def test_forgets_a_server():
    SERVERS.append(subprocess.Popen(["sleep", "600"]))
