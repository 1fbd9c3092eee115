"""Options, ini keys and profiles: what is read, and that what can't be meant stops the run before collection."""

from __future__ import annotations

import os

import pytest

from pytest_isolate.model.keys import KEYS
from pytest_isolate.plugin.options import INI, OPTIONS, everywhere
from pytest_isolate.plugin.settings import Settings, settings_key
from tests.support.collected import collect
from tests.support.isolated_runs import run

DISTRIBUTED = pytest.mark.parametrize("args", [(), ("-p", "xdist", "-n", "2")], ids=["alone", "xdist"])


TYPED = {
    "budget": ("cpu=1s,pids=3", {"cpu": 1.0, "pids": 3}), "cpu": ("20%", 0.2), "memory": ("64MiB", 64 << 20), "swap": ("0", 0), "pids": ("9", 9), "disk": ("1MiB", 1 << 20),
    "io": ("read=1MB/s,path=data", {"read": 1_000_000, "write": None, "path": "{base}/data"}), "net": ("bridge,network=db", {"mode": "bridge", "network": "db"}),
    "bandwidth": ("10mbit", {"rx": 10_000_000, "tx": 10_000_000, "delay": None, "jitter": None, "loss": None}), "forward": ("none", "none"), "timeout": ("5s", 5.0),
    "hostname": ("box", "box"), "user": ("root", "root"), "fixtures": ("inside", "inside"), "leak": ("fail", "fail"),
}  # fmt: skip
"""Text and value of the keys that aren't lists, and need nothing on this machine."""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A test, and a conftest that shows whether collection was reached."""
    pytester.makepyfile(test_one="import pytest\n@pytest.mark.isolate\ndef test_one(): pass\nprint('COLLECTED')\n")
    return pytester


def settings(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *args: str) -> Settings:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    config = pytester.parseconfigure("-p", "pytest_isolate.plugin", *args)
    return config.stash[settings_key]


def spec(pytester: pytest.Pytester, *args: str) -> dict[str, object]:
    found = collect(pytester, *args)["test_one"].spec
    assert found is not None
    return found


def expected(pytester: pytest.Pytester) -> dict[str, object]:
    values: dict[str, object] = {key: value for key, (_, value) in TYPED.items()}
    values["publish"] = ({"port": 80, "host_port": 0, "host_ip": "127.0.0.1", "protocol": "tcp"},)
    values["io"] = {"read": 1_000_000, "write": None, "path": f"{pytester.path}/data"}
    return values


def test_there_is_an_option_and_an_ini_key_for_every_key() -> None:
    assert [key.name for key in everywhere()] == list(KEYS)
    assert {*TYPED, "upper", "inputs", "rootfs", "writable", "hide", "env", "publish"} == set(KEYS)


def test_every_option_is_read(suite: pytest.Pytester) -> None:
    lists = (
        "--isolate-writable=a",
        "--isolate-writable",
        "/b c",
        "--isolate-hide=~/x",
        "--isolate-env=A=1",
        "--isolate-publish=80",
        "--isolate-env=B=x=y",
    )
    found = spec(suite, *(f"--isolate-{key}={text}" for key, (text, _) in TYPED.items()), "--isolate-rootfs=host", *lists)
    assert found == {
        **expected(suite),
        "writable": (f"{suite.path}/a", "/b c"),
        "hide": (os.path.expanduser("~/x"),),
        "env": (("A", "1"), ("B", "x=y")),
    }


@pytest.mark.parametrize("name", ["pytest.ini", "tox.ini", "setup.cfg"])
def test_every_ini_key_is_read_and_paths_start_at_the_ini_file(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    lines = [f"isolate_{key} = {text}" for key, (text, _) in TYPED.items()]
    lists = ["isolate_writable = a '/b c'", "isolate_hide = /etc/x", "isolate_env =", "  A=1", "  B=x=y", "isolate_publish = 80"]
    section = "[tool:pytest]" if name == "setup.cfg" else "[pytest]"
    (suite.path / name).write_text("\n".join([section, *lines, *lists]))
    sub = suite.mkdir("sub")
    monkeypatch.chdir(sub)
    found = spec(suite, str(suite.path))
    assert found == {
        **expected(suite),
        "writable": (f"{suite.path}/a", "/b c"),
        "hide": ("/etc/x",),
        "env": (("A", "1"), ("B", "x=y")),
    }


def test_every_ini_key_is_read_from_pyproject_toml(suite: pytest.Pytester) -> None:
    lines = [f'isolate_{key} = "{text}"' for key, (text, _) in TYPED.items()]
    lists = [
        'isolate_writable = ["a", "/b c"]',
        'isolate_hide = ["/etc/x"]',
        'isolate_env = ["A=1", "B=x=y"]',
        'isolate_publish = ["80"]',
    ]
    suite.makepyprojecttoml("\n".join(["[tool.pytest.ini_options]", *lines, *lists]))
    assert spec(suite) == {
        **expected(suite),
        "writable": (f"{suite.path}/a", "/b c"),
        "hide": ("/etc/x",),
        "env": (("A", "1"), ("B", "x=y")),
    }


def test_numbers_of_ini_options_are_read(suite: pytest.Pytester) -> None:
    suite.makepyprojecttoml(
        "[tool.pytest.ini_options]\nisolate_pids = 9\nisolate_cpu = 0.2\nisolate_all = true\nisolate_top = 3\n"
    )
    assert spec(suite) == {"pids": 9, "cpu": 0.2}


if pytest.version_tuple >= (9,):

    def test_native_toml_is_read(suite: pytest.Pytester) -> None:
        suite.makepyprojecttoml("""
            [tool.pytest]
            isolate_all = true
            isolate_memory = "64MiB"
            isolate_writable = ["a"]
            isolate_env = ["A=1"]
            isolate_top = 3
            isolate_preload = ["json"]
        """)
        found = collect(suite)["test_one"]
        assert found.spec == {"memory": 64 << 20, "writable": (f"{suite.path}/a",), "env": (("A", "1"),)}


if pytest.version_tuple >= (9, 2):  # ini keys of several types

    def test_native_toml_numbers_are_read(suite: pytest.Pytester) -> None:
        suite.makepyprojecttoml(
            '[tool.pytest]\nisolate_pids = 9\nisolate_cpu = 0.2\nisolate_memory = 1048576\nisolate_timeout = "5s"\n'
        )
        assert spec(suite) == {"pids": 9, "cpu": 0.2, "memory": 1 << 20, "timeout": 5.0}


if pytest.version_tuple >= (9,):

    def test_native_toml_value_of_a_wrong_type_is_a_usage_error(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        suite.makepyprojecttoml('[tool.pytest]\nisolate_all = "yes"\nisolate_cpu = ["20%"]\nisolate_top = "x"\n')
        done = run(suite, monkeypatch)
        assert done.result.ret == pytest.ExitCode.USAGE_ERROR
        for name in ("isolate_all", "isolate_cpu", "isolate_top"):
            assert f"pyproject.toml: {name}: " in done.result.stderr.str()
        assert "INTERNALERROR" not in done.output


if pytest.version_tuple < (9,):

    @pytest.mark.parametrize(
        "name,table", [("pyproject.toml", "[tool.pytest]"), ("pytest.toml", "[pytest]"), (".pytest.toml", "[pytest]")]
    )
    def test_native_toml_that_this_pytest_ignores_is_a_usage_error(
        suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: str, table: str
    ) -> None:
        (suite.path / name).write_text(f"{table}\nisolate_all = true\naddopts = []\n")
        suite.makeini("[pytest]\n")
        done = run(suite, monkeypatch)
        assert done.result.ret == pytest.ExitCode.USAGE_ERROR
        assert f"{name}: isolate_all in {table} has no effect on pytest {pytest.__version__}" in done.result.stderr.str()
        assert "accepted: [tool.pytest.ini_options]" in done.result.stderr.str()


def test_other_settings_are_read_option_before_ini(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeini("[pytest]\nisolate_missing = skip\nisolate_top = 3\nisolate_cgroup = a/b\nisolate_preload = json os.path\n")
    found = settings(pytester, monkeypatch, "--isolate-top=0")
    assert (found.missing, found.top, found.cgroup, found.preload) == ("skip", 0, "a/b", ("json", "os.path"))


def test_defaults(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(pytester, monkeypatch) == Settings()


BAD_OPTIONS = [
    "--isolate-cpu=20bananas", "--isolate-memory=1", "--isolate-io=10MB/s", "--isolate-env=TZ", "--isolate-profile=strict", "--isolate-missing=ignore",
    "--isolate-top=-1", "--isolate-cgroup=../x", "--isolate-disk=1GiB",
]  # fmt: skip
BAD_INI = """
[pytest]
isolate_cpu = 0
isolate_memory = 64MiB
isolate_pids = many
isolate_net = bridged
isolate_profile = lax
isolate_missing = ignore
isolate_top = few
isolate_all = perhaps
isolate_cup = 1
"""


@DISTRIBUTED
def test_everything_wrong_is_said_at_once_and_nothing_is_collected(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    suite.makeini(BAD_INI)
    done = run(suite, monkeypatch, *BAD_OPTIONS[1:], "-s", *args)
    assert done.result.ret == pytest.ExitCode.USAGE_ERROR
    errors = [line.removeprefix("ERROR: ") for line in done.result.stderr.lines if line.startswith("ERROR: ")]
    starts = [
        "command line: --isolate-memory: '1' is less than 1 MiB",
        "command line: --isolate-io: '10MB/s' is not NAME=VALUE; accepted: read=RATE",
        "command line: --isolate-env: 'TZ' is not NAME=VALUE; accepted: NAME=VALUE",
        "command line: --isolate-profile: no profile 'strict': there is no [tool.pytest-isolate.profiles.NAME] in the rootdir's pyproject.toml",
        "command line: --isolate-missing: 'ignore' is not accepted; accepted: fail, skip, weaken",
        "command line: --isolate-top: '-1' is not a whole number; accepted: 0 (all) or",
        "command line: --isolate-cgroup: '../x' names no cgroup directory",
        "tox.ini: isolate_cpu: '0' is less than 1% of a CPU",
        "tox.ini: isolate_pids: 'many' is not a whole number; accepted: whole number, at least 1",
        "tox.ini: isolate_net: 'bridged' is no network mode; accepted: none, host, container:NAME, or bridge,network=NAME,internal,subnet=CIDR,ip=ADDRESS,alias=NAME,mac=ADDRESS,mtu=BYTES,ipv6",
        "tox.ini: isolate_profile: no profile 'lax'",
        "tox.ini: isolate_all: ",
        "tox.ini: isolate_cup: no such ini key; accepted: isolate_cpu",
        "disk of --isolate-disk of command line, memory of isolate_memory of tox.ini: disk+memory: ",
    ]
    for start in starts:
        assert [error for error in errors if error.startswith(start)], f"{start}\nnot among\n" + "\n".join(errors)
    assert all("; accepted: " in error for error in errors)
    assert len(errors) == len(starts), "\n".join(errors)
    assert "COLLECTED" not in done.output


def test_ini_value_of_the_command_line_is_blamed_on_it(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(suite, monkeypatch, "-o", "isolate_cpu=x", "-o", "isolate_cqu=1")
    assert "command line (-o): isolate_cpu: 'x' is not a quantity" in done.result.stderr.str()
    assert "isolate_cqu: no such ini key" in done.result.stderr.str()
    assert done.result.ret == pytest.ExitCode.USAGE_ERROR


def test_key_that_another_plugin_declares_is_left_to_it(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.makeconftest("def pytest_addoption(parser): parser.addini('isolate_else', 'of another plugin', type='int')")
    suite.makeini("[pytest]\nisolate_else = x\n# isolate_commented = 1\n")
    run(suite, monkeypatch).result.assert_outcomes(passed=1)


def test_unknown_option_is_pytests_own_usage_error(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(suite, monkeypatch, "--isolate-cup=1")
    assert done.result.ret == pytest.ExitCode.USAGE_ERROR


PROFILES = """
[tool.pytest-isolate]
profils = 1
[tool.pytest-isolate.profiles.bad]
cpu = "20 bananas"
mem = "1MiB"
profile = "other"
[tool.pytest-isolate.profiles.torn]
memory = "1MiB"
disk = "2MiB"
[tool.pytest-isolate.profiles]
flat = 3
"""


@DISTRIBUTED
def test_bad_profile_is_a_usage_error_though_nobody_names_it(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    suite.makepyprojecttoml(PROFILES)
    done = run(suite, monkeypatch, "-s", *args)
    assert done.result.ret == pytest.ExitCode.USAGE_ERROR
    text = done.result.stderr.str()
    assert (
        "pyproject.toml: [tool.pytest-isolate] has no key 'profils'; accepted: tables [tool.pytest-isolate.profiles.NAME]" in text
    )
    assert "profile 'bad' of pyproject.toml: cpu: unknown unit 'bananas' in '20 bananas'; accepted: share of one CPU" in text
    assert "profile 'bad' of pyproject.toml: mem: no such key; accepted: cpu, memory" in text
    assert "profile 'bad' of pyproject.toml: profile: no such key" in text
    assert "profile 'torn' of pyproject.toml: disk+memory: " in text
    assert "profile 'flat' of pyproject.toml: 3 is not a table" in text
    assert "COLLECTED" not in done.output


def test_profile_has_typed_values_and_its_paths_start_at_the_rootdir(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.makepyprojecttoml("""
        [tool.pytest-isolate.profiles."two words"]
        cpu = 0.5
        pids = 9
        io = {read = "1MB/s"}
        env = {TZ = "UTC"}
        writable = ["build"]
    """)
    suite.makeini("[pytest]\n")
    monkeypatch.chdir(suite.mkdir("sub"))
    io = {"read": 1_000_000, "write": None, "path": None}
    assert spec(suite, "--isolate-profile=two words", str(suite.path)) == {
        "cpu": 0.5, "pids": 9, "io": io, "env": (("TZ", "UTC"),), "writable": (f"{suite.path}/build",),
    }  # fmt: skip


def test_unknown_profile_names_those_that_exist(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.makepyprojecttoml("[tool.pytest-isolate.profiles.strict]\n[tool.pytest-isolate.profiles.lax]\n")
    done = run(suite, monkeypatch, "--isolate-profile=srict")
    assert (
        "--isolate-profile: no profile 'srict'; accepted: 'lax', 'strict' (from [tool.pytest-isolate.profiles.NAME]"
        in done.result.stderr.str()
    )


def test_pyproject_that_is_not_toml_is_a_usage_error(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.makeini("[pytest]\n")
    (suite.path / "pytest.ini").write_text("[pytest]\n")
    (suite.path / "pyproject.toml").write_text("[tool.pytest-isolate.profiles.x\n")
    done = run(suite, monkeypatch)
    assert done.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "pyproject.toml: " in done.result.stderr.str()


def test_help_shows_every_option_and_ini_key(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    text = run(suite, monkeypatch, "--help").result.stdout.str()
    for name in (*(f"--isolate-{key}" for key in KEYS), *(option for option, _, _ in OPTIONS)):
        assert f"  {name}" in text
    for name in (*(f"isolate_{key}" for key in KEYS), *(ini for ini, _, _ in INI)):
        assert f"  {name} " in text


def test_markers_shows_every_key_with_its_form(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    text = run(suite, monkeypatch, "--markers").result.stdout.str()
    assert "@pytest.mark.isolate(cpu, memory, " in text
    for key in KEYS.values():
        assert f"{key.name:9} {key.help}: {key.accepted} (default: {key.default})" in text
    assert "enabled   False: the test runs without a sandbox" in text


def test_marker_is_known_to_strict_markers(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    run(suite, monkeypatch, "--strict-markers").result.assert_outcomes(passed=1)
