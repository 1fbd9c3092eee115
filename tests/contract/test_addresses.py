"""Subnets are shared out among runs, processes and users of one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from pytest_isolate.model.errors import SetupError
from pytest_isolate.network.addresses import claim, unique_local
from tests.support.capabilities import requires
from tests.support.unprivileged import USER_ID
from tests.support.world import World

HOLD = """
import sys
from ipaddress import IPv4Network
from pytest_isolate.network.addresses import claim
held = claim([], IPv4Network(sys.argv[2]) if sys.argv[2:] else None, run="theirs", directory=sys.argv[1])
print(held.subnet, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "claims")


def hold(place: str, *wanted: str) -> tuple[subprocess.Popen[str], IPv4Network]:
    command = [sys.executable, "-c", HOLD, place, *wanted]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return process, IPv4Network(process.stdout.readline().strip())


def test_processes_that_claim_at_once_have_different_subnets(place: str):
    held = [hold(place) for _ in range(12)]
    subnets = [subnet for _process, subnet in held]
    for process, _subnet in held:
        process.communicate()
    assert len(set(subnets)) == 12
    assert all(subnet.is_private and subnet.prefixlen == 24 for subnet in subnets)


def test_one_process_has_as_many_as_it_claims(place: str):
    claims = [claim([], directory=place) for _ in range(5)]
    assert len({made.subnet for made in claims}) == 5
    for made in claims:
        made.release()
        made.release()
    assert os.listdir(place) == []


def test_what_the_host_routes_is_not_given(place: str):
    avoid = [IPv4Network("10.0.0.0/8"), IPv4Network("192.168.0.0/16"), IPv4Network("172.16.1.0/24")]
    made = claim(avoid, directory=place)
    assert made.subnet.subnet_of(IPv4Network("172.16.0.0/16"))
    assert not made.subnet.overlaps(avoid[2])
    made.release()


def test_wanted_subnet_that_the_host_routes_names_the_route(place: str):
    with pytest.raises(SetupError, match=r"10\.1\.0\.0/30: the host has a route or address in 10\.0\.0\.0/8"):
        claim([IPv4Network("10.0.0.0/8")], IPv4Network("10.1.0.0/30"), directory=place)


def test_wanted_subnet_of_another_run_names_the_run_also_where_it_only_overlaps(place: str):
    process, _ = hold(place, "10.9.8.0/24")
    for wanted in ("10.9.8.0/24", "10.9.0.0/16", "10.9.8.128/30"):
        with pytest.raises(SetupError, match=r"the run theirs of user \d+ has it"):
            claim([], IPv4Network(wanted), directory=place)
    claim([], IPv4Network("10.9.9.0/24"), directory=place).release()
    process.communicate()


def test_killed_process_holds_nothing_and_its_file_goes_with_the_next_claim(place: str):
    process, subnet = hold(place)
    process.kill()
    process.wait()
    assert len(os.listdir(place)) == 1
    made = claim([], subnet, directory=place)
    assert len(os.listdir(place)) == 1
    made.release()
    assert os.listdir(place) == []
    process.communicate()


def test_program_that_a_holder_starts_does_not_hold_on(place: str):
    made = claim([], directory=place)
    sleeper = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        made.release()
        claim([], made.subnet, directory=place).release()
    finally:
        sleeper.kill()
        sleeper.wait()


def test_nothing_free_says_what_takes_it_all(place: str):
    with pytest.raises(SetupError, match=r"every /24 of 10\.213\.0\.0/16.* is routed by this host") as caught:
        claim([IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16")], directory=place)
    assert "'subnet'" in caught.value.hint


def test_directory_that_is_a_link_is_refused(place: str, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", place)
    with pytest.raises(SetupError, match="it isn't a directory that everyone may write to"):
        claim([], directory=place)
    assert os.listdir(tmp_path / "elsewhere") == []


def test_links_pipes_and_nonsense_among_the_claims_are_passed_over(place: str, tmp_path: Path):
    claim([], directory=place).release()
    os.symlink("/etc/passwd", f"{place}/10.213.0.0_24.00")
    os.mkfifo(f"{place}/10.213.1.0_24.00")
    Path(place, "10.213.2.9_24.00").write_text("host bits")
    Path(place, "readme").write_text("")
    claim([], directory=place).release()
    assert Path("/etc/passwd").exists()
    assert Path(place, "readme").exists()


@requires("root", "unprivileged-user")
def test_users_see_each_others_claims_also_in_a_sticky_directory():
    with World() as world:
        code = f"""
import os, sys
made = claim([], run="of " + str(os.getuid()), directory="/run/lock/{os.getpid()}")
tell(str(made.subnet))
for line in sys.stdin:
    try:
        claim([], IPv4Network(line.strip()), directory="/run/lock/{os.getpid()}").release()
    except SetupError as error:
        tell(str(error))
    else:
        tell("")
"""
        root, user = world.start(code), world.start(code, user=True)
        subnets = [json.loads(process.stdout.readline()) for process in (root, user)]
        assert subnets[0] != subnets[1]
        answers = []
        for process, wanted in ((root, subnets[1]), (user, subnets[0])):
            process.stdin.write(wanted + "\n")
            process.stdin.flush()
            answers.append(json.loads(process.stdout.readline()))
        assert f"the run of {USER_ID} of user {USER_ID} has it" in answers[0]
        assert "the run of 0 of user 0 has it" in answers[1]
        root.kill()
        root.communicate()
        user.stdin.write(subnets[0] + "\n")
        user.stdin.flush()
        assert json.loads(user.stdout.readline()) == ""


def test_unique_local_subnets_differ_by_run_and_name():
    subnets = [unique_local(run, name) for run in ("a", "b") for name in ("x", "y")]
    assert len(set(subnets)) == 4
    assert all(subnet.prefixlen == 64 and str(subnet).startswith("fd") for subnet in subnets)
    assert unique_local("a", "x") == subnets[0]
