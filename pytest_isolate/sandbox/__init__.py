"""Sandboxes as a small library, without pytest: `with Sandbox(spec) as box: box.run(["id"])`."""

from pytest_isolate.sandbox.builder_process import Facts
from pytest_isolate.sandbox.pool import Pool
from pytest_isolate.sandbox.process import Process
from pytest_isolate.sandbox.sandbox import Events, Sandbox

__all__ = ["Events", "Facts", "Pool", "Process", "Sandbox"]
