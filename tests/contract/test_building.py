"""What making a sandbox costs the builder, and that both ways of making an init end in the same sandbox. As root and as a user."""

from __future__ import annotations

import pytest

from tests.support.callers import Caller, caller
from tests.support.capabilities import requires

__all__ = ["caller"]

FAULTS = """
def faults():
    with open(f"/proc/{POOL._builder.pid}/stat") as file: return int(file.read().rpartition(")")[2].split()[7])

def built(count, **spec):
    with box(**spec): before = faults()
    for _ in range(count):
        with box(**spec): pass
    return (faults() - before) / count
"""

LOOK = """
LOOK = \"\"\"
mounts = [line.split() for line in open("/proc/self/mountinfo")]
status = dict(line.split(":", 1) for line in open("/proc/1/status"))
tell([
    sorted((fields[4], fields[5], fields[fields.index("-") + 1]) for fields in mounts),
    open("/proc/1/cmdline").read(), os.listdir("/proc/1/fd") if os.access("/proc/1/fd", os.R_OK) else None,
    os.uname().nodename, status["SigIgn"], status["Threads"], open("/proc/1/stat").read().split()[3:6], len(os.listdir("/sys/class/net")),
])
\"\"\"
"""


@requires("machine-code")
def test_builder_copies_no_page_for_an_init(caller: Caller) -> None:
    each = caller.run(FAULTS + "tell(built(20))")
    assert each < 60, f"{each} page faults for each sandbox; with a fork of the builder there were 340"


@requires("cgroup-memory")
def test_few_cgroups_wait_for_their_removal_though_the_builder_never_rests(caller: Caller) -> None:
    code = """
with box(memory=64 << 20) as opened: (directory, *_) = opened.group.directories()
seen = []
for _ in range(100):
    with box(memory=64 << 20): pass
    seen.append(len(os.listdir(os.path.dirname(directory))))
tell(max(seen) - seen[0])
"""
    assert caller.run(code) < 40


@pytest.mark.parametrize("net", ["none", "host"])
def test_init_made_in_python_holds_the_same_sandbox(caller: Caller, net: str) -> None:
    """`hide=` and `hostname=` go through all that init does; a kernel without memory files to execute makes it in Python."""
    spec = f"hostname='box', net='{net}', hide=('/srv',)"
    code = f"""
scripted = inside(LOOK, {spec})
POOL.close()
import pytest_isolate.kernel.fresh_interpreter as starter
starter._BOOT = starter._BOOT.replace("; main(", "; import os; os.memfd_create = refuse; main(").replace(
    "; from", "\\ndef refuse(*_): raise OSError(38, 'none')\\nfrom", 1)
POOL = Pool(cgroup=CGROUP, depth=0)
tell([scripted, inside(LOOK, {spec})])
"""
    scripted, in_python = caller.run(LOOK + code)
    scripted[1], in_python[1] = scripted[1].split("\0")[0], in_python[1].split("\0")[1]
    assert scripted[1] == "pytest-isolate-init"
    assert in_python[1] == "-I"
    assert scripted[0] == in_python[0]
    assert scripted[2:] == in_python[2:]


def test_failing_step_of_init_is_told_and_the_next_sandbox_is_built(caller: Caller) -> None:
    code = """
answers = []
for _ in range(2):
    try:
        with box(hostname="x" * 65): answers.append("built")
    except IsolateError as error: answers.append(str(error))
tell(answers + [inside("tell(1)")])
"""
    first, second, after = caller.run(code)
    assert "sethostname: EINVAL" in first
    assert first == second
    assert after == 1
