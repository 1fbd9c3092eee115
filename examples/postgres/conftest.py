"""A PostgreSQL cluster that is initialised and filled once, and started afresh by each test.

Look for: `isolate_snapshot`, which makes of what a fixture wrote a layer below each test, so that each test has the whole
cluster to itself, without a copy.
"""

import glob
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pytest_isolate import isolate_snapshot

os.environ["PATH"] += "".join(f":{path}" for path in sorted(glob.glob("/usr/lib/postgresql/*/bin")))  # Debian's place

ROWS = 50_000
HERE = Path("/var/tmp/isolate-example-postgres")
SERVER = ["postgres", "-D", HERE / "data", "-k", HERE, "-c", "listen_addresses=", "-c", "fsync=off"]


def pytest_collection_modifyitems(items):
    missing = [program for program in ("initdb", "postgres", "psql", "setpriv") if shutil.which(program) is None]
    if missing:
        reason = f"no {', '.join(missing)} here: apt install postgresql"
        for item in items:
            if item.path.parent.name == "postgres":
                item.add_marker(pytest.mark.skip(reason=reason))


def as_nobody_special() -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam("postgres")
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def sql(*statements: str) -> str:
    commands = [argument for statement in statements for argument in ("-c", statement)]
    done = subprocess.run(
        ["psql", "-h", HERE, "-U", "app", "-d", "postgres", "-qAt", *commands], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def started():
    server = subprocess.Popen([*as_nobody_special(), *SERVER], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    while subprocess.run(["pg_isready", "-q", "-h", HERE], check=False).returncode:
        assert server.poll() is None, "the server ended"
        time.sleep(0.01)
    return server


def initialised():
    HERE.mkdir()
    if user := as_nobody_special():
        os.chown(HERE, pwd.getpwnam("postgres").pw_uid, -1)
    arguments = ["-D", HERE / "data", "-U", "app", "-A", "trust", "--no-sync", "--wal-segsize=1"]
    subprocess.run([*user, "initdb", *arguments], check=True, stdout=subprocess.DEVNULL, cwd="/")
    server = started()
    sql(
        "create table customer (id serial primary key, name text not null)",
        f"insert into customer (name) select 'customer ' || n from generate_series(1, {ROWS}) n",
    )
    server.terminate()
    server.wait()


@pytest.fixture(scope="session")
@isolate_snapshot
def cluster():
    """The cluster's directory: initialised and filled, in a sandbox of its own."""
    initialised()
    return HERE


@pytest.fixture
def database(cluster):
    """A server on this test's own cluster."""
    assert (cluster / "data").is_dir()
    server = started()
    yield sql
    server.send_signal(signal.SIGINT)
    server.wait()
