"""One variant from boot to results: the machine, the facts, each user's tests or each refusal, and what to keep of them."""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final
from xml.etree import ElementTree as ET

from tests.vm.channel import Channel
from tests.vm.images import ROOT, image
from tests.vm.machines import Machine
from tests.vm.project import sync
from tests.vm.releases import Refusal, Variant
from tests.vm.results import DoctorResult, Facts, RefusalResult, SuiteResult, VariantResult, first_told, read_junit
from tests.vm.users import started

__all__ = ["Tier", "TierError"]

_FACTS: Final = r"""
import json, platform, subprocess
v1 = {c: "v1" for line in open("/proc/self/cgroup") for c in line.split(":")[1].split(",") if c and not c.startswith("name=")}
types = {line.split()[1]: line.split()[2] for line in open("/proc/self/mounts") if line.split()[2] in ("cgroup", "cgroup2")}
unified = next((point for point, kind in types.items() if kind == "cgroup2"), None)
v2 = {c: "v2" for c in open(unified + "/cgroup.controllers").read().split()} if unified else {}
release = platform.freedesktop_os_release()
print(json.dumps({
    "kernel": platform.release(),
    "distribution": release["VERSION_CODENAME"],
    "systemd": subprocess.run(["systemctl", "--version"], capture_output=True, text=True).stdout.split()[1],
    "python": platform.python_version(),
    "layout": "v2" if unified == "/sys/fs/cgroup" else "hybrid" if unified else "v1",
    "controllers": {**v2, **v1},
}))
"""

_TINY: Final = """
import os
import pytest

@pytest.mark.isolate
def test_isolated():
    assert os.getppid() == 0
"""


_DOCTOR: Final = ("python", "-m", "pytest_isolate", "doctor")


class TierError(Exception):
    """The machine could not be made to do what a job needs."""


@dataclass(frozen=True)
class Tier:
    """How variants are run.

    Attributes:
        out: directory for logs and JUnit XML, one below it for each variant.
        tests: arguments of pytest.
        seconds: that a user's run may take.
        say: prints a line.
        tree: the checkout.
    """

    out: Path
    tests: Sequence[str]
    seconds: float
    say: Callable[[str], None]
    users: Sequence[str] = ()
    tree: Path = ROOT
    _made: list[Machine] = field(default_factory=list)

    def run(self, variant: Variant) -> VariantResult:
        """Raises BootFailed, Unreachable, TierError."""
        files = image(variant)
        self.out.mkdir(parents=True, exist_ok=True)
        machine = Machine(f"tier-{variant.name}-{os.getpid()}")
        start = time.monotonic()
        try:
            machine.start(variant, files)
            booted = time.monotonic()
            if sync(machine, self.tree):
                raise TierError(f"{variant.name}: the project could not be unpacked")
            facts = Facts(**json.loads(self._output(machine, "root", ["python", "-c", _FACTS])))
            self.say(f"{variant.name}: Linux {facts.kernel}, {facts.layout}, up after {booted - start:.0f} s")
            if facts.layout != variant.layout:
                raise TierError(f"{variant.name}: cgroups are laid out as {facts.layout}, not {variant.layout}")
            for name in variant.mended:
                self._mend(machine, name)
            suites = {}
            refusals = {}
            if variant.refusals:
                refusals = {refusal.name: self._refusal(machine, variant, refusal) for refusal in variant.refusals}
            else:
                suites = {
                    user: self._suite(machine, variant, user) for user in variant.users if not self.users or user in self.users
                }
            return VariantResult(facts, suites, refusals)
        finally:
            self._keep(variant, "console.log", machine.log())
            machine.stop()

    def _mend(self, machine: Machine, name: str) -> None:
        """Type what the doctor tells root about the capability `name`."""
        found = {one["name"]: one for one in json.loads(self._output(machine, "root", [*_DOCTOR, "--json"]))["capabilities"]}
        if found[name]["state"] == "works":
            raise TierError(f"{machine.name}: {name} works, and was expected to be missing")
        self._output(machine, "root", ["sh", "-euc", found[name]["remedy"]])

    def _suite(self, machine: Machine, variant: Variant, user: str) -> SuiteResult:
        self._keep(variant, f"{user}-doctor.txt", self._execute(machine, user, _DOCTOR, timeout=120)[1])
        doctor = DoctorResult.of(json.loads(self._output(machine, user, [*_DOCTOR, "--json"])))
        without = tuple(variant.without.get(user, ()))
        demanded = ",".join(("all", *(f"!{name}" for name in without)))
        report = f"/var/tmp/{user}.xml"
        argv = [
            "pytest",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            "-ojunit_family=xunit1",
            "--durations=15",
            *self.tests,
        ]
        start = time.monotonic()
        try:
            status, log = self._execute(
                machine,
                user,
                argv,
                {"ISOLATE_REQUIRE": demanded, "TMPDIR": "/var/tmp"},
                timeout=self.seconds * variant.processor.slowness,
            )
        except TimeoutError as error:
            status, log = None, str(error)
        seconds = time.monotonic() - start
        self._keep(variant, f"{user}.log", log)
        self._keep(variant, f"{user}.xml", self._execute(machine, "root", ["cat", report])[1])
        try:
            passed, failed, skipped = read_junit(self.out / variant.name / f"{user}.xml")
        except ET.ParseError:
            passed, failed, skipped = 0, [], {}
        result = SuiteResult(tuple(self.tests), status, passed, failed, skipped, without, round(seconds, 1), doctor)
        closing = log.rstrip().rpartition("\n")[2]
        self.say(f"{variant.name}: {user:6} {'good' if result.good else 'BAD '} {seconds:4.0f} s  {closing}")
        for name in failed:
            self.say(f"{variant.name}: {user:6} failed {name}")
        return result

    def _refusal(self, machine: Machine, variant: Variant, refusal: Refusal) -> dict[str, RefusalResult]:
        done, said = self._execute(machine, "root", ["sh", "-euc", refusal.put], cwd="/")
        if done:
            raise TierError(f"{variant.name}: {refusal.name} could not be put: {said}")
        try:
            return {user: self._refused(machine, variant, refusal, user) for user in variant.users}
        finally:
            self._execute(machine, "root", ["sh", "-euc", refusal.lift], cwd="/")

    def _refused(self, machine: Machine, variant: Variant, refusal: Refusal, user: str) -> RefusalResult:
        """The doctor's report and a tiny isolated test, which must agree with what is expected and name the cause."""
        status, report = self._execute(machine, user, _DOCTOR, timeout=120)
        script = f"rm -rf ~/tiny; mkdir ~/tiny; cd ~/tiny; printf %s {shlex.quote(_TINY)} >test_tiny.py; exec pytest -q -p no:cacheprovider"
        tiny, log = self._execute(machine, user, ["sh", "-c", script], timeout=120)
        self._keep(variant, f"{refusal.name}-{user}.txt", f"{report}\n--- exit status {status}\n{log}")
        pattern = refusal.says.get(user)
        problems = []
        if (tiny == 0) == bool(pattern):
            problems.append(f"an isolated test {'passed' if tiny == 0 else 'failed'}")
        if (status == 0) == bool(pattern):
            problems.append(f"the doctor's exit status is {status}")
        if pattern:
            problems += [
                f"{what} doesn't say {pattern!r}"
                for what, text in (("the doctor", report), ("the failed test", log))
                if not re.search(pattern, text)
            ]
        result = RefusalResult(not pattern, tiny == 0, "; ".join(problems), first_told(report) if pattern else "")
        self.say(f"{variant.name}: {refusal.name}, {user}: {'good' if result.good else 'BAD: ' + result.problem}")
        return result

    def _execute(
        self,
        machine: Machine,
        user: str,
        argv: Sequence[str],
        env: Mapping[str, str] = MappingProxyType({}),
        *,
        timeout: float = 60,
        cwd: str | None = None,
    ) -> tuple[int, str]:
        """Status and output, both streams together. Raises TimeoutError with what was printed so far."""
        start = started(user, argv, env, cwd)
        log = self.out / f".{machine.name}.log"
        with log.open("w+b") as file, Channel(machine.directory, timeout=60) as channel:
            try:
                status = channel.run(start.argv, stop=start.stop, out=file, err=file, timeout=timeout)
            except TimeoutError as error:
                raise TimeoutError(f"{log.read_text(encoding='utf-8', errors='replace')}\n{error}") from None
            finally:
                text = log.read_text(encoding="utf-8", errors="replace")
                log.unlink()
        return status, text

    def _output(self, machine: Machine, user: str, argv: Sequence[str]) -> str:
        status, text = self._execute(machine, user, argv, timeout=120)
        if status:
            raise TierError(f"{machine.name}: {shlex.join(argv)}: exit status {status}\n{text}")
        return text

    def _keep(self, variant: Variant, name: str, text: str) -> None:
        directory = self.out / variant.name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name.replace("/", "-")).write_text(text, encoding="utf-8")
