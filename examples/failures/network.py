"""Look for: the section that names the address which the test tried to reach."""

import socket

import pytest


@pytest.mark.isolate(net="none")
def test_talks_to_the_world():
    socket.create_connection(("192.0.2.1", 443), timeout=5)
