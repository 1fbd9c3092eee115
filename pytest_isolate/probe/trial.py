"""A whole sandbox, built by the real builder and entered: whether a bare ``@pytest.mark.isolate`` works."""

from __future__ import annotations

from pytest_isolate.machine.explain import explained
from pytest_isolate.model.errors import IsolateError, MissingCapability, SetupError
from pytest_isolate.model.spec import Spec
from pytest_isolate.probe.capability import Capability
from pytest_isolate.sandbox import Pool, Sandbox

__all__ = ["try_sandbox"]

_LIMIT = 30.0


def try_sandbox(delegated: str | None) -> Capability:
    """``sandbox``.

    Args:
        delegated: ``--isolate-cgroup``.
    """
    pool = Pool(cgroup=delegated, depth=0)
    try:
        with Sandbox(Spec(), pool=pool) as box:
            done = box.run(["/bin/sh", "-c", "exit 42"], timeout=_LIMIT)
    except (IsolateError, OSError) as error:
        return _refused(
            explained(error if isinstance(error, IsolateError) else SetupError.from_os_error("run a command inside", error))
        )
    finally:
        pool.close()
    if done.returncode != 42:
        return Capability("sandbox", "missing", f"a command inside ended with {done.returncode} instead of 42", "", "trial")
    return Capability("sandbox", "works", "built, entered and removed")


def _refused(error: IsolateError) -> Capability:
    if isinstance(error, MissingCapability):
        return Capability("sandbox", "missing", f"{error.capability}: {error.why}", error.hint, error.capability)
    return Capability("sandbox", "missing", error.message, error.hint, error.step if isinstance(error, SetupError) else "")
