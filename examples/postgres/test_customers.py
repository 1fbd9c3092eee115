"""Each test may do to the database what it likes: the next one starts from the same cluster again.

Look for: nothing here puts anything back; the cluster is `conftest.py`'s snapshot.
"""

import pytest

pytestmark = pytest.mark.isolate


def count(sql):
    return int(sql("select count(*) from customer"))


def test_everybody_is_deleted(database):
    database("delete from customer")
    assert count(database) == 0


def test_everybody_is_there_again(database):
    assert count(database) == 50_000


def test_the_table_is_dropped(database):
    database("drop table customer")
    assert database("select count(*) from pg_tables where tablename = 'customer'") == "0\n"


def test_ids_go_on_where_the_snapshot_ended(database):
    assert database("insert into customer (name) values ('new') returning id") == "50001\n"
