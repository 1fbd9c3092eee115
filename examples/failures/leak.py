"""Look for: `1 process left behind` with its name and command line."""

import subprocess

import pytest


@pytest.mark.isolate(leak="fail")
def test_forgets_a_server():
    subprocess.run("sleep 600 &", shell=True, check=True)
