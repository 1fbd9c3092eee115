"""Plugins in everyday use, each beside ours: the same outcome as without isolation, and what the plugin is for still works."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Final

import pytest

from tests.support.beside import PAGE, beside, table
from tests.support.capabilities import requires
from tests.support.isolated_runs import Run, run

pytestmark = requires("root")

Outcomes = list[tuple[str, str, str]]


class Both:
    """The same suite plainly and with every test isolated."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pytester, self._monkeypatch = pytester, monkeypatch

    def run(self, *args: str) -> Run:
        return run(self._pytester, self._monkeypatch, *args)

    def same(self, *args: str) -> tuple[Run, Run]:
        """Both runs; fails where a report came out differently, or nothing was isolated."""
        plain, isolated = self.run(*args, "--no-isolate"), self.run(*args, "--isolate-all")
        assert outcomes(isolated) == outcomes(plain), isolated.output
        assert [report.name for report in isolated if report.isolate], isolated.output
        return plain, isolated


def outcomes(done: Run) -> Outcomes:
    return sorted((report.name, report.when, report.outcome) for report in done)


@pytest.fixture
def both(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Both:
    return Both(pytester, monkeypatch)


@beside("pytest-xdist", "`-n 2`: every test reported once, with its figures.")
def test_xdist_reports_every_test_once(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile("""
        import pytest

        @pytest.fixture(scope="session")
        def wide(worker_id):
            return worker_id

        @pytest.mark.parametrize("number", range(20))
        def test(number, wide):
            assert number != 7
    """)
    _plain, isolated = both.same("-p", "xdist", "-n", "2")
    assert len(isolated.reports) == 60
    assert len([report for report in isolated if "isolate.wall_seconds" in report.properties]) == 20
    isolated.result.assert_outcomes(passed=19, failed=1)


@beside("pytest-xdist", "A crashing test fails; its worker lives on.")
def test_xdist_worker_survives_a_crash_inside(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile("""
        import os, pytest

        @pytest.mark.parametrize("number", range(6))
        def test(number):
            if number == 2:
                os.kill(os.getpid(), 11)
    """)
    done = both.run("-p", "xdist", "-n", "2", "--isolate-all")
    done.result.assert_outcomes(passed=5, failed=1)
    done.result.stdout.no_fnmatch_line("*node down*")


_COVERED: Final = """
    import os

    def used(leave):
        if leave:
            os._exit(0)
        return 1

    def unused():
        return 2
"""


@beside("pytest-cov", "`--cov` counts lines that ran inside, also of a test that ended with `os._exit`.")
def test_cov_counts_lines_that_ran_inside(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile(lib=_COVERED)
    pytester.makepyfile("""
        import lib, pytest

        def test_returns():
            assert lib.used(False) == 1

        @pytest.mark.skipif("not config.option.isolate_all")
        def test_leaves():
            lib.used(True)
    """)

    def lines(done: Run) -> list[int]:
        data = json.loads((pytester.path / "coverage.json").read_text())
        return data["files"]["lib.py"]["executed_lines"]

    arguments = ("-p", "pytest_cov", "--cov=lib", "--cov-report=json", "-k")
    plain = lines(both.run(*arguments, "returns", "--no-isolate"))
    assert lines(both.run(*arguments, "returns", "--isolate-all")) == plain
    both.run(*arguments, "leaves", "--isolate-all")
    assert lines(both.run(*arguments, "leaves", "--isolate-all")) == [1, 3, 4, 5, 8]


@beside("pytest-cov", "Branches and contexts survive, under pytest-xdist too.")
def test_cov_keeps_contexts_and_branches(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile(lib=_COVERED)
    pytester.makepyfile("""
        import lib

        def test_one():
            lib.used(False)

        def test_two():
            lib.used(False)
    """)
    pytester.makefile(".ini", **{".coveragerc": ""})
    (pytester.path / ".coveragerc").write_text("[json]\nshow_contexts = true\n")
    for extra in ((), ("-p", "xdist", "-n", "2")):
        found = []
        for mode in ("--no-isolate", "--isolate-all"):
            both.run("-p", "pytest_cov", "--cov=lib", "--cov-branch", "--cov-context=test", "--cov-report=json", mode, *extra)
            data = json.loads((pytester.path / "coverage.json").read_text())["files"]["lib.py"]
            found.append((data["executed_branches"], {line: sorted(names) for line, names in data["contexts"].items()}))
        assert found[0] == found[1]
        assert "test_cov_keeps_contexts_and_branches.py::test_one|run" in found[1][1]["6"]


@beside("pytest-timeout", "Its limit holds inside; the earlier of it and `timeout=` wins.")
@pytest.mark.parametrize(("theirs", "ours", "text"), [(1, 20, "Timeout*>*1*"), (20, 1, "timeout of 1.00 s in call")])
def test_timeout_the_earlier_limit_wins(pytester: pytest.Pytester, both: Both, theirs: int, ours: int, text: str):
    pytester.makepyfile("""
        import time

        def test_hangs():
            time.sleep(30)

        def test_next():
            pass
    """)
    done = both.run("-p", "timeout", f"--timeout={theirs}", f"--isolate-timeout={ours}s", "--isolate-all")
    done.result.assert_outcomes(passed=1, failed=1)
    pytest.LineMatcher(done.of("test_hangs", "call").longrepr.splitlines()).fnmatch_lines([f"*{text}*"])
    assert done.result.duration < 15


@beside("pytest-timeout", "`timeout_func_only` and a limit on set-up hold too.")
def test_timeout_in_setup_and_func_only(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile("""
        import pytest, time

        @pytest.fixture
        def slow():
            time.sleep(30)

        @pytest.mark.timeout(1)
        def test_slow_setup(slow):
            pass

        @pytest.mark.timeout(1, func_only=True)
        def test_slow_call():
            time.sleep(30)
    """)
    _plain, isolated = both.same("-p", "timeout")
    assert isolated.failed() == {("test_slow_setup", "setup"), ("test_slow_call", "call")}


@beside("pytest-rerunfailures", "Reruns happen, each in a sandbox of its own.")
def test_rerunfailures_reruns_each_in_a_new_sandbox(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile("""
        import pathlib

        def test_flaky(request):
            litter = pathlib.Path(__file__).with_name("litter")
            if request.config.option.isolate_all:
                assert not litter.exists(), "not a new sandbox"
                litter.touch()
            assert request.node.execution_count > 2
    """)
    _plain, isolated = both.same("-p", "rerunfailures", "--reruns=3")
    assert Counter(report.outcome for report in isolated if report.when == "call") == {"rerun": 2, "passed": 1}


@beside("pytest-asyncio", "Loops of every scope, async fixtures of every scope.")
def test_asyncio_with_loops_of_every_scope(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile("""
        import asyncio, pytest, pytest_asyncio

        @pytest_asyncio.fixture(scope="session", loop_scope="session")
        async def wide():
            await asyncio.sleep(0)
            yield asyncio.get_running_loop()
            await asyncio.sleep(0)

        @pytest_asyncio.fixture
        async def narrow():
            await asyncio.sleep(0)
            yield 1

        @pytest.mark.asyncio
        async def test_function(narrow):
            await asyncio.sleep(0.01)
            assert narrow == 1

        @pytest.mark.asyncio(loop_scope="session")
        async def test_session(wide):
            assert asyncio.get_running_loop() is wide
            await asyncio.to_thread(lambda: None)

        @pytest.mark.asyncio(loop_scope="session")
        async def test_session_subprocess(wide):
            process = await asyncio.create_subprocess_exec("true")
            assert await process.wait() == 0

        @pytest.mark.asyncio(loop_scope="class")
        class TestClass:
            loop = None

            async def test_one(self):
                TestClass.loop = asyncio.get_running_loop()
                server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                assert await asyncio.wait_for(reader.read(), 5) == b""
                writer.close()
                server.close()

            async def test_two(self):
                await asyncio.sleep(0.01)

            async def test_fails(self):
                await asyncio.sleep(0)
                assert 0
    """)
    both.same("-p", "asyncio", "-o", "asyncio_default_fixture_loop_scope=function")


@beside("anyio", "asyncio and trio, with fixtures of every scope.")
def test_anyio_on_both_backends(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile("""
        import anyio, pytest

        pytestmark = pytest.mark.anyio

        @pytest.fixture(scope="module", params=["asyncio", "trio"])
        def anyio_backend(request):
            return request.param

        @pytest.fixture(scope="module")
        async def wide():
            await anyio.sleep(0)
            yield "wide"
            await anyio.sleep(0)

        @pytest.fixture
        async def narrow(wide):
            await anyio.sleep(0)
            yield wide

        async def test_narrow(narrow):
            await anyio.sleep(0.01)
            assert narrow == "wide"

        async def test_tasks(wide):
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 0.01)

        async def test_thread():
            assert await anyio.to_thread.run_sync(lambda: 1) == 1
    """)
    both.same("-p", "anyio")


@beside("pytest-mock", "`mocker` of function scope is undone inside; wider ones hold for the tests of their scope.")
def test_mock_of_every_scope(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile("""
        import os, pytest

        @pytest.fixture(scope="module")
        def wide(module_mocker):
            module_mocker.patch("os.getlogin", return_value="wide")

        def test_narrow(mocker):
            mocker.patch("os.getcwd", return_value="nowhere")
            assert os.getcwd() == "nowhere"
            spy = mocker.spy(os.path, "join")
            os.path.join("a", "b")
            spy.assert_called_once_with("a", "b")

        def test_undone(wide):
            assert os.getcwd() != "nowhere"
            assert os.getlogin() == "wide"

        def test_assertion_has_its_introspection(mocker):
            stub = mocker.stub()
            stub(1)
            stub.assert_called_once_with(2)
    """)
    plain, isolated = both.same("-p", "pytest_mock")
    name = "test_assertion_has_its_introspection"
    texts = [re.sub("0x[0-9a-f]+", "0x…", done.of(name, "call").longrepr) for done in (plain, isolated)]
    assert texts[0] == texts[1]


@beside("hypothesis", "Its database survives: a failure is replayed first in the next run.")
def test_hypothesis_database_survives(pytester: pytest.Pytester, both: Both, monkeypatch: pytest.MonkeyPatch):
    for name in ("CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI"):  # hypothesis keeps no database in continuous integration
        monkeypatch.delenv(name, raising=False)
    pytester.makepyfile("""
        from hypothesis import given, settings, strategies as st

        @given(st.integers())
        def test_fails(number):
            assert number < 1000

        @given(st.text())
        def test_passes(text):
            assert isinstance(text, str)
    """)
    first = both.run("-p", "hypothesispytest", "--isolate-all", "--hypothesis-show-statistics")
    first.result.assert_outcomes(passed=1, failed=1)
    assert "number=1000" in first.of("test_fails", "call").longrepr
    assert any(path.is_file() for path in (pytester.path / ".hypothesis/examples").rglob("*"))
    second = both.run("-p", "hypothesispytest", "--isolate-all", "--hypothesis-show-statistics", "-k", "fails")
    second.result.stdout.fnmatch_lines(["*during reuse phase*"])


@beside("pytest-randomly", "The same order and the same random numbers as without isolation.")
def test_randomly_gives_the_same_order_and_numbers(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile("""
        import pytest, random

        @pytest.mark.parametrize("number", range(10))
        def test(number, record_property):
            record_property("drawn", random.random())
    """)
    plain, isolated = both.same("-p", "randomly", "--randomly-seed=7")

    def drawn(done: Run) -> list[tuple[str, float]]:
        return [(report.name, report.properties["drawn"]) for report in done if report.when == "teardown"]

    assert drawn(isolated) == drawn(plain)
    assert [name for name, _ in drawn(plain)] != sorted(name for name, _ in drawn(plain))


if pytest.version_tuple >= (9,):  # subtests came with pytest 9

    @beside("pytest", "Built-in `subtests` and `unittest`'s `subTest`: each failing one is reported and counted.")
    def test_subtests_are_counted(pytester: pytest.Pytester, both: Both):
        pytester.makepyfile("""
            import unittest

            def test_subtests(subtests):
                for number in range(4):
                    with subtests.test("number", number=number):
                        assert number % 2 == 0

            class Case(unittest.TestCase):
                def test_sub(self):
                    for number in range(4):
                        with self.subTest(number=number):
                            self.assertEqual(number % 2, 0)
        """)
        plain, isolated = both.same()
        assert isolated.result.ret == plain.result.ret == 1
        assert isolated.result.parseoutcomes() == plain.result.parseoutcomes()


@beside("pytest-html", "The report has every test with its captured output and extras.")
def test_html_report_has_output_and_extras(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile("""
        import pytest_html

        def test_passes(extras):
            extras.append(pytest_html.extras.text("from inside"))
            print("printed inside")

        def test_fails():
            assert 0
    """)
    for mode in ("--no-isolate", "--isolate-all"):
        both.run("-p", "html", "-p", "html_fixtures", "-p", "metadata", "--html=report.html", "--self-contained-html", mode)
        text = (pytester.path / "report.html").read_text()
        assert text.count("test_passes") >= 1
        assert "printed inside" in text
        assert "from inside" in text or "ZnJvbSBpbnNpZGU" in text, mode


@beside("pytest-reportlog", "Each line of the log is there, with the figures on a test's last report.")
def test_reportlog_has_every_report_and_the_figures(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile("""
        def test_passes(): pass
        def test_fails(): assert 0
    """)

    def lines() -> list[dict[str, object]]:
        done = [json.loads(line) for line in (pytester.path / "log.jsonl").read_text().splitlines()]
        return [line for line in done if line["$report_type"] == "TestReport"]

    arguments = ("-p", "pytest_reportlog.plugin", "--report-log=log.jsonl")
    both.run(*arguments, "--no-isolate")
    plain = lines()
    both.run(*arguments, "--isolate-all")
    isolated = lines()
    for name in ("nodeid", "when", "outcome"):
        assert [line[name] for line in isolated] == [line[name] for line in plain]
    for line in isolated:
        figures = {key for key, _ in line["user_properties"]}
        assert ("isolate.cpu_seconds" in figures) == (line["when"] == "teardown")


@beside("pytest-django", "Database tests with transactions, rolled back as ever.")
def test_django_database_tests(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile(
        settings="""
            SECRET_KEY = "x"
            INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]
            DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3", "TEST": {"NAME": "test.sqlite3"}}}
            ROOT_URLCONF = "urls"
            USE_TZ = True
        """,
        urls="""
            from django.http import HttpResponse
            from django.urls import path
            urlpatterns = [path("", lambda request: HttpResponse("hello"))]
        """,
    )
    pytester.makepyfile("""
        import pytest

        @pytest.mark.django_db
        @pytest.mark.parametrize("number", [1, 2])
        def test_creates(number):
            from django.contrib.auth.models import User
            assert User.objects.count() == 0
            User.objects.create_user(f"user{number}")
            assert User.objects.count() == 1

        @pytest.mark.django_db(transaction=True)
        def test_commits():
            from django.contrib.auth.models import User
            User.objects.create_user("committed")

        @pytest.mark.django_db
        def test_nothing_is_left():
            from django.contrib.auth.models import User
            assert User.objects.count() == 0

        def test_client(client):
            assert client.get("/").content == b"hello"

        def test_forbidden():
            from django.contrib.auth.models import User
            with pytest.raises(RuntimeError, match="Database access not allowed"):
                User.objects.count()
    """)
    both.same("-p", "django", "--ds=settings", "-p", "no:xdist")


@beside("pytest-flask", "`client` and request contexts.")
def test_flask_client(pytester: pytest.Pytester, both: Both):
    pytester.makeconftest("""
        import flask, pytest

        @pytest.fixture(scope="session")
        def app():
            app = flask.Flask("app")
            app.route("/")(lambda: {"hello": "world"})
            return app
    """)
    pytester.makepyfile("""
        import flask

        def test_client(client):
            assert client.get("/").json == {"hello": "world"}

        def test_context(app):
            assert flask.current_app.name == "app"
    """)
    both.same("-p", "flask")


@beside("syrupy", "Snapshots match; `--snapshot-update` adds and changes, and never deletes one that was used inside.")
def test_syrupy_update_keeps_what_was_used_inside(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile("""
        def test_one(snapshot):
            assert {"a": 1} == snapshot

        def test_two(snapshot):
            assert [1, 2] == snapshot
            assert "second" == snapshot(name="named")
    """)
    first = both.run("-p", "syrupy", "--snapshot-update", "--no-isolate")
    first.result.assert_outcomes(passed=2)
    (file,) = pytester.path.rglob("*.ambr")
    written = file.read_text()
    assert both.run("-p", "syrupy", "--isolate-all").result.ret == 0
    again = both.run("-p", "syrupy", "--isolate-all", "--snapshot-update")
    assert file.read_text() == written, again.output
    assert re.search(r"3 snapshots passed", again.output), again.output


@beside("syrupy", "New snapshots are written, through the sandbox.")
def test_syrupy_update_writes_new_ones(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile("""
        def test_one(snapshot):
            assert {"a": 1} == snapshot
    """)
    both.run("-p", "syrupy", "--isolate-all", "--snapshot-update").result.assert_outcomes(passed=1)
    assert both.run("-p", "syrupy", "--no-isolate").result.ret == 0


@beside("syrupy", "Snapshots of any kind, under pytest-xdist too.")
def test_syrupy_bytes_and_xdist(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile("""
        import pytest
        from syrupy.extensions.single_file import SingleFileSnapshotExtension

        @pytest.mark.parametrize("number", range(6))
        def test_text(snapshot, number):
            assert number == snapshot

        def test_picture(snapshot):
            assert b"\\x89PNG\\xff" == snapshot(extension_class=SingleFileSnapshotExtension)
    """)
    written = both.run("-p", "syrupy", "--isolate-all", "--snapshot-update")
    written.result.assert_outcomes(passed=7)
    for arguments in (
        ("--no-isolate",),
        ("--isolate-all",),
        ("--isolate-all", "-p", "xdist", "-n", "2"),
        ("--isolate-all", "--snapshot-update"),
    ):
        done = both.run("-p", "syrupy", *arguments)
        assert done.result.ret == 0, done.output
        assert "7 snapshots passed" in done.output, done.output


@beside("syrupy", "With an extension class that only the test knows, unused snapshots are kept, with a warning.")
def test_syrupy_with_a_class_of_the_test_deletes_nothing(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile("""
        from syrupy.extensions.amber import AmberSnapshotExtension

        def test_own(snapshot):
            class Own(AmberSnapshotExtension):
                pass
            assert 1 == snapshot.use_extension(Own)

        def test_other(snapshot):
            assert 2 == snapshot
    """)
    both.run("-p", "syrupy", "--no-isolate", "--snapshot-update").result.assert_outcomes(passed=2)
    (file,) = pytester.path.rglob("*.ambr")
    written = file.read_text()
    done = both.run("-p", "syrupy", "--isolate-all", "--snapshot-update")
    assert file.read_text() == written
    assert "no unused snapshot is deleted in this run" in done.output, done.output


@beside("pytest-benchmark", "`--benchmark-cprofile` is refused.")
def test_benchmark_cprofile_is_refused(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile("def test(benchmark): benchmark(sum, [])")
    done = both.run("-p", "benchmark", "--isolate-all", "--benchmark-cprofile=tottime")
    assert done.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--benchmark-cprofile: a profile made in a sandbox can't be brought to the report" in done.output


@beside("pytest-benchmark", "Its table has the benchmarks that ran inside; `--benchmark-json` too.")
def test_benchmark_results_come_out(pytester: pytest.Pytester, both: Both):
    pytester.makepyfile("""
        def test_speed(benchmark):
            assert benchmark(sum, [1, 2]) == 3
    """)
    done = both.run("-p", "benchmark", "-p", "no:xdist", "--isolate-all", "--benchmark-json=out.json", "--benchmark-max-time=0.1")
    done.result.assert_outcomes(passed=1)
    (benchmark,) = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    assert benchmark["name"] == "test_speed"
    assert benchmark["stats"]["rounds"] > 1


def test_table_in_the_documentation_is_that_of_these_tests():
    assert PAGE.read_text() == table(), "python -m tests.support.beside"


@requires("plugin-pytest-rerunfailures")
@pytest.mark.parametrize("fails", [1, 2])
def test_wide_fixtures_of_a_test_that_is_run_again_are_torn_down_once(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, fails: int
):
    pytester.makepyfile(
        test_it=f"""
        import os, pytest
        def note(what):
            with open("log", "a") as file:
                file.write(f"{{what}}\\n")
        @pytest.fixture(scope="class")
        def of_class():
            yield
            note("class down")
        @pytest.fixture(scope="module")
        def of_module():
            yield
            note("module down")
        @pytest.mark.isolate(writable=["."])
        class TestIt:
            def test_again(self, of_class, of_module):
                note("try")
                with open("log") as file:
                    assert file.read().count("try") > {fails}
            def test_next(self, of_class, of_module):
                note("next")
        """
    )
    done = run(pytester, monkeypatch, "-p", "rerunfailures", "--reruns=1")
    assert done.result.parseoutcomes() == ({"passed": 2, "rerun": 1} if fails == 1 else {"failed": 1, "passed": 1, "rerun": 1})
    assert (pytester.path / "log").read_text().splitlines() == ["try", "try", "next", "class down", "module down"]
