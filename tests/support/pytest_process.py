"""pytest with the plugin, and no other, in a process of its own, on any directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["run_pytest"]

ROOT = Path(__file__).parents[2]


def run_pytest(directory: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in `directory`, its temporary base beside it; output captured, status not checked."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    base = directory.parent / f"{directory.name}-base"
    argv = [sys.executable, "-m", "pytest", "-p", "pytest_isolate.plugin", "-p", "no:cacheprovider", f"--basetemp={base}", *args]
    return subprocess.run(
        argv,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=120,
    )
