"""A database file made once, by a session fixture, and ruined by every test.

Look for: `database` prints "made" once (run with -s); each test sees all three users, whatever the one before did to them.
"""

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

pytestmark = pytest.mark.isolate


@pytest.fixture(scope="session")
def database():
    # Not tmp_path_factory: pytest's own temporary directory is shared with the sandboxes, so that its files can be kept.
    with tempfile.TemporaryDirectory(prefix="example-") as directory:
        path = Path(directory, "shop.db")
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("create table users (name text)")
            connection.executemany("insert into users values (?)", [("ada",), ("grace",), ("edsger",)])
        print("made", path)
        yield path
        with closing(sqlite3.connect(path)) as connection:
            assert users(connection) == ["ada", "edsger", "grace"], "a test changed the real file"


@pytest.fixture
def connection(database):
    # Function scope, so it is opened inside the sandbox, on the test's own copy.
    with closing(sqlite3.connect(database)) as connection:
        yield connection


def users(connection):
    return sorted(name for (name,) in connection.execute("select name from users"))


def test_delete_everybody(connection):
    with connection:
        connection.execute("delete from users")
    assert users(connection) == []


def test_drop_the_table(connection):
    assert users(connection) == ["ada", "edsger", "grace"]
    with connection:
        connection.execute("drop table users")


def test_remove_the_file(database, connection):
    assert users(connection) == ["ada", "edsger", "grace"]
    database.unlink()


def test_everything_is_there(connection):
    assert users(connection) == ["ada", "edsger", "grace"]
