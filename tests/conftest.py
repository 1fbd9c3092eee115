"""What every test may use: skipping by capability."""

from tests.support.capabilities import pytest_configure, pytest_runtest_setup

__all__ = ["pytest_configure", "pytest_runtest_setup"]
