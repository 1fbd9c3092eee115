"""Every touch of what pytest and the standard library don't document, each with the reason.

pytest has no public way to move one item's life into another process, so its own plugins' state is read here
and nowhere else. All of it was read in pytest 8.4 and 9.2; what exists in one of them only is looked up by
name and may be absent.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import pluggy
import pytest
from _pytest.compat import NOTSET
from _pytest.faulthandler import fault_handler_stderr_fd_key
from _pytest.fixtures import SubRequest
from _pytest.junitxml import xml_key
from _pytest.runner import check_interactive_exception, runtestprotocol
from _pytest.unittest import TestCaseFunction

try:
    from _pytest.subtests import failed_subtests_key
except ImportError:  # pytest 8: subtests are a plugin, which counts nothing
    failed_subtests_key = None  # type: ignore[assignment]

__all__ = [
    "all_fixtures",
    "basetemp",
    "before_capture_is_left",
    "before_capture_is_suspended",
    "cache_directory",
    "called_for_phase",
    "captured_sections",
    "current_line",
    "drop_finalizers",
    "failed_subtests",
    "faulthandler_settings",
    "finalizers",
    "flush",
    "forget_instance",
    "ini_names",
    "interactive",
    "is_set_up",
    "junit",
    "junit_attributes",
    "only_logreport",
    "recorded_warnings",
    "requests_above",
    "restore_terminal",
    "run_unlogged",
    "running_item",
    "set_failed_subtests",
    "set_up_overridden",
    "skip_at_item",
    "stream_encoding",
    "tear_down",
    "tear_down_everything",
    "tear_down_until",
    "terminal_descriptor",
    "terminal_state",
    "used_fixtures",
    "without_capture",
]

Finalizer = Callable[[], object]
_PLUGGY: Final = os.path.dirname(pluggy.__file__)


# --- fixtures and the set-up stack --------------------------------------------------------------------------------


def set_up_overridden(request: Any, name: str, definitions: Sequence[pytest.FixtureDef[Any]], level: int) -> None:
    """Set up the fixture `level` overrides below the innermost one of its name.

    pytest picks the definition by counting how often the name occurs in the chain of sub-requests, so the chain
    that the overrides would build is built, without running them. The result must then be taken out of the
    item's own table again, or the item would get it in place of the override's.
    """
    __tracebackhide__ = True
    sub = request
    for definition in reversed(definitions[-level:]):
        sub = SubRequest(sub, definition._scope, NOTSET, 0, definition, _ispytest=True)
    sub._get_active_fixturedef(name)
    request._fixture_defs.pop(name, None)


def all_fixtures(session: pytest.Session) -> Iterator[pytest.FixtureDef[Any]]:
    """Every definition that the session knows; only pytest's fixture manager lists them."""
    manager: Any = session._fixturemanager
    if hasattr(manager, "_get_all_fixture_defs"):  # since pytest 9.2
        yield from list(manager._get_all_fixture_defs())
        return
    for definitions in list(manager._arg2fixturedefs.values()):
        yield from definitions


def used_fixtures(item: pytest.Item) -> list[str]:
    """Names of the fixtures of an item, those that it asked for by getfixturevalue included."""
    request = getattr(item, "_request", None)
    return list(request.fixturenames) if request else []


def requests_above(request: pytest.FixtureRequest) -> list[pytest.FixtureRequest]:
    """Of the fixtures that led to this request, outermost first; the test's own isn't among them."""
    found: list[pytest.FixtureRequest] = []
    above = getattr(request, "_parent_request", None)
    while isinstance(above, SubRequest):
        found.insert(0, above)
        above = above._parent_request
    return found


def is_set_up(request: pytest.FixtureRequest) -> bool:
    """Whether the function of the request's fixture has come to its end, or its yield."""
    return getattr(request, "_fixturedef").cached_result is not None  # noqa: B009 - no attribute of the public type


def running_item(config: pytest.Config) -> pytest.Item | None:
    """The test that is set up now; None between tests and while it is torn down."""
    session = config.pluginmanager.get_plugin("session")
    stack = session._setupstate.stack if session is not None else {}
    last = next(reversed(stack), None)
    return last if isinstance(last, pytest.Item) else None


def finalizers(definition: pytest.FixtureDef[Any]) -> list[Finalizer]:
    return definition._finalizers


def drop_finalizers(item: pytest.Item) -> None:
    """In the child: what the pytest process will tear down is not torn down here; the item's own teardown() is."""
    stack = item.session._setupstate.stack
    for node, (_, error) in list(stack.items()):
        stack[node] = ([node.teardown] if node is item else [], error)
    # pytest-rerunfailures takes those of wider nodes off the stack for a test that it runs again, and puts them back at its end.
    if suspended := getattr(item.config.pluginmanager.get_plugin("rerunfailures"), "suspended_finalizers", None):
        suspended.clear()


def tear_down_everything(session: pytest.Session) -> None:
    """In the child: every teardown is the last one, as there is no next item here.

    So wide fixtures that were first asked for inside are torn down together with the item, and pytest itself
    groups what they raise.
    """
    state = session._setupstate
    tear_down = state.teardown_exact

    def teardown_exact(nextitem: pytest.Item | None) -> None:  # noqa: ARG001 - pytest's signature
        __tracebackhide__ = True
        tear_down(None)

    state.teardown_exact = teardown_exact  # type: ignore[method-assign]


def tear_down(session: pytest.Session) -> None:
    """In the child: everything that is set up, now."""
    session._setupstate.teardown_exact(None)


def tear_down_until(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """What `nextitem` doesn't need. Raises whatever finalizers raise."""
    item.session._setupstate.teardown_exact(nextitem)


def run_unlogged(item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    """All of an item's phases as pytest runs them, once more if they ran before, and nobody told; pytest-rerunfailures does the same."""
    return runtestprotocol(item, log=False, nextitem=nextitem)


def forget_instance(item: pytest.Item) -> None:
    """In the parent, in place of the item's teardown(): drop the instance that `TestCaseFunction` keeps."""
    if isinstance(item, TestCaseFunction):
        item._obj = None
        instance: Any = item
        instance.__dict__.pop("_instance", None)


def skip_at_item(reason: str) -> BaseException:
    """A skip that is reported at the test, as that of a mark is, and not at the line of the plugin that raised it."""
    return pytest.skip.Exception(reason, _use_item_location=True)


# --- reports ------------------------------------------------------------------------------------------------------


def captured_sections(item: pytest.Item) -> list[tuple[str, str, str]]:
    """(phase, name, text) of what was captured so far; reports are made from it."""
    return item._report_sections


def interactive(call: pytest.CallInfo[Any], report: pytest.TestReport) -> bool:
    """Whether pytest would call pytest_exception_interact."""
    return check_interactive_exception(call, report)


def called_for_phase() -> bool:
    """Whether pytest_runtest_makereport is running for a phase of `runtestprotocol`, and not for a subtest.

    The two calls have equal arguments; what called the hook is all that tells them apart. Plugins that copy
    pytest's runner (flaky) keep the function's name.
    """
    frame = sys._getframe(2)
    while frame.f_code.co_filename.startswith(_PLUGGY) and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_name == "call_and_report"


def only_logreport(config: pytest.Config, plugin: object) -> None:
    """In the child: `plugin` is the only one to be told of reports, for good.

    Unregistering the others would take away their other hooks too, and pluggy's public subset_hook_caller gives
    a caller that pytest doesn't call. Every proxy of the hook reads this list.
    """
    caller = config.hook.pytest_runtest_logreport
    caller._hookimpls[:] = [implementation for implementation in caller._hookimpls if implementation.plugin is plugin]


def failed_subtests(item: pytest.Item) -> int:
    """pytest 9 fails a test that passed with failed subtests; it keeps their number in its stash."""
    if failed_subtests_key is None:
        return 0
    counts = item.config.stash.get(failed_subtests_key, None)
    return counts.get(_identity(item), 0) if counts else 0


def set_failed_subtests(item: pytest.Item, number: int) -> None:
    if failed_subtests_key is None:
        return
    if (counts := item.config.stash.get(failed_subtests_key, None)) is not None:
        counts[_identity(item)] = number


def _identity(item: pytest.Item) -> Any:
    """What pytest keys its tables by: an object since 9.2, the text before."""
    return getattr(item, "id", item.nodeid)


def junit(config: pytest.Config) -> Any:
    """The writer behind --junit-xml, which record_testsuite_property and record_xml_attribute write to; None if not in use."""
    return config.stash.get(xml_key, None)


def junit_attributes(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """The XML attributes of the item's element, live."""
    writer = junit(config)
    attributes: dict[str, Any] = writer.node_reporter(_identity(item)).attrs
    return attributes


def recorded_warnings() -> list[warnings.WarningMessage] | None:
    """The list that pytest's warnings plugin collects in, if called inside its wrapper; None with -p no:warnings.

    ``catch_warnings(record=True)`` installs the `append` of that list. Taking the new entries from it in the child
    and adding them to it in the parent leaves filters, de-duplication and reporting to Python and pytest.
    """
    show = getattr(warnings, "_showwarnmsg_impl", None)
    records = getattr(show, "__self__", None)
    return records if isinstance(records, list) else None


# --- terminal and capturing ---------------------------------------------------------------------------------------


def flush(config: pytest.Config) -> None:
    """Before a fork and before os._exit: what is buffered is written once."""
    streams: tuple[Any, ...] = (sys.stdout, sys.stderr, getattr(_writer(config), "_file", None))
    for stream in streams:
        try:
            stream.flush()
        except (
            AttributeError,
            OSError,
            ValueError,
        ):  # None, closed, or no file at all: nothing is lost that plain pytest would write
            continue


def without_capture(config: pytest.Config) -> AbstractContextManager[None]:
    """Output of the plugin's process goes to the terminal, also while a test's output is captured."""
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    return capture.global_and_fixture_disabled() if capture else nullcontext()


def before_capture_is_suspended(config: pytest.Config, call: Callable[[], object]) -> Callable[[], None]:
    """Have `call` called before anything in this process writes past the capturing; what undoes that.

    Whoever prints while a test runs (pytest-timeout's stacks, progress of an import) suspends the capturing first.
    """
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    suspend = capture.suspend_global_capture

    def suspend_global_capture(in_: bool = False) -> None:  # noqa: FBT001, FBT002 - pytest's signature
        call()
        suspend(in_)

    capture.suspend_global_capture = suspend_global_capture
    return lambda: vars(capture).pop("suspend_global_capture", None)


def before_capture_is_left(
    config: pytest.Config, around: Callable[[], AbstractContextManager[None]], prompt: Callable[[], object]
) -> None:
    """In the child, for good: be told of what is about to be written to the terminal.

    Args:
        around: entered while live logging, ``capsys.disabled()`` or a subtest's report has the terminal.
        prompt: called before a debugger has it.
    """
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    disabled, suspend = capture.global_and_fixture_disabled, capture.suspend_global_capture

    @contextmanager
    def global_and_fixture_disabled() -> Iterator[None]:
        with around(), disabled():
            yield

    def suspend_global_capture(in_: bool = False) -> None:  # noqa: FBT001, FBT002 - pytest's signature
        if in_:  # without standard input it is the end of a phase, or part of the above
            prompt()
        suspend(in_)

    capture.global_and_fixture_disabled, capture.suspend_global_capture = global_and_fixture_disabled, suspend_global_capture


def output_is_captured(config: pytest.Config) -> bool:
    """Whether what pytest prints now would be captured: unittest's subtests are logged without suspending it."""
    capture = config.pluginmanager.getplugin("capturemanager")
    running = getattr(capture, "_global_capturing", None)
    return running is not None and running._state == "started"


def stream_encoding(writer: Any) -> str:
    """What the terminal can show; pytest's writer keeps its file private."""
    return str(getattr(writer._file, "encoding", None) or "utf-8")


def terminal_state(config: pytest.Config) -> list[Any]:
    """Where the cursor of pytest's terminal writer is, and what live logging has announced: what they print inside
    happens on the same terminal."""
    live = _live_log(config)
    return [
        getattr(_writer(config), "_current_line", ""),
        *((live._first_record_emitted, live._section_name_shown, live._test_outcome_written) if live else ()),
    ]


def current_line(config: pytest.Config) -> str:
    """What pytest has written of its terminal's current line, without colours."""
    return str(getattr(_writer(config), "_current_line", ""))


def terminal_descriptor(config: pytest.Config) -> int:
    """A duplicate of the one that pytest's terminal writer writes to; -1 if it has none."""
    with without_capture(config):
        try:
            return os.dup(_writer(config)._file.fileno())
        except (AttributeError, OSError, ValueError):
            return -1


def restore_terminal(config: pytest.Config, state: Sequence[Any]) -> None:
    if (writer := _writer(config)) is not None:
        writer._current_line = state[0]
    if (live := _live_log(config)) and len(state) > 1:
        live._first_record_emitted, live._section_name_shown, live._test_outcome_written = state[1:]


def _writer(config: pytest.Config) -> Any:
    """The terminal's; None with -p no:terminal, where the public get_terminal_writer() is an AssertionError."""
    return config.get_terminal_writer() if config.pluginmanager.hasplugin("terminalreporter") else None


def _live_log(config: pytest.Config) -> Any:
    """The handler of live logging; None where it is off."""
    plugin = config.pluginmanager.getplugin("logging-plugin")
    handler = getattr(plugin, "log_cli_handler", None)
    return handler if hasattr(handler, "_section_name_shown") else None


def faulthandler_settings(config: pytest.Config) -> tuple[float, bool, int]:
    """Seconds (0: off), whether to exit, and the descriptor, of pytest's faulthandler_timeout."""
    if not config.pluginmanager.hasplugin("faulthandler"):
        return 0.0, False, -1
    leaves = "faulthandler_exit_on_timeout" in config._parser._inidict and bool(config.getini("faulthandler_exit_on_timeout"))
    seconds = float(config.getini("faulthandler_timeout") or 0.0)
    return seconds, leaves, config.stash.get(fault_handler_stderr_fd_key, -1)


# --- configuration and places -------------------------------------------------------------------------------------------------------


def basetemp(config: pytest.Config) -> Path | None:
    """pytest's temporary base, made now: later every child would make, and clear, one of its own."""
    factory = getattr(config, "_tmp_path_factory", None)
    return factory.getbasetemp() if factory else None


def cache_directory(config: pytest.Config) -> Path | None:
    """The directory of --cache-dir, made now; None without the cache plugin or where it can't be written."""
    cache = getattr(config, "cache", None)
    if cache is None:
        return None
    try:
        cache._ensure_cache_dir_and_supporting_files()
    except OSError:
        return None
    directory: Path = cache._cachedir
    return directory


# --- configuration ------------------------------------------------------------------------------------------------


def ini_names(config: pytest.Config) -> set[str]:
    """The keys that the ini file and ``-o`` give, known or not.

    `getini` answers for known names only; `inicfg`, public once, is deprecated since pytest 9.0 and `_inicfg` there.
    """
    given: Any = config._inicfg if hasattr(config, "_inicfg") else config.inicfg
    return {*given, *(text.partition("=")[0] for text in config.getoption("override_ini", None) or ())}
