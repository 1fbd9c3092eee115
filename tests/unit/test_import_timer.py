from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_isolate.plugin.preload import Imports, ImportTimer, preload


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def timer() -> Iterator[ImportTimer]:
    made = ImportTimer()
    made.install()
    yield made
    made.remove()


def write(directory: Path, **sources: str) -> None:
    for name, source in sources.items():
        (directory / f"{name}.py").write_text(source)
    importlib.invalidate_caches()


SLOW = "import time; time.sleep(0.02)"


def test_import_is_timed_with_what_it_imports_and_under_its_own_name(modules: Path, timer: ImportTimer) -> None:
    write(modules, b2_outer="import b2_inner; " + SLOW, b2_inner=SLOW)
    importlib.import_module("b2_outer")
    ((name, seconds),) = timer.measured()
    assert name == "b2_outer"
    assert 0.04 <= seconds < 2


def test_cached_import_is_not_timed(modules: Path, timer: ImportTimer) -> None:
    write(modules, b2_cached=SLOW)
    importlib.import_module("b2_cached")
    seconds = dict(timer.measured())["b2_cached"]
    importlib.import_module("b2_cached")
    assert dict(timer.measured()) == {"b2_cached": seconds}


def test_failed_and_quick_imports_are_left_out(modules: Path, timer: ImportTimer) -> None:
    write(modules, b2_broken=SLOW + "; 1/0", b2_quick="")
    for name in ("b2_broken", "b2_missing", "b2_quick"):
        with contextlib.suppress(ImportError, ZeroDivisionError):
            importlib.import_module(name)
    assert "b2_broken" not in dict(timer.measured())
    assert "b2_missing" not in dict(timer.measured())


def test_import_in_another_thread_is_timed_apart(modules: Path, timer: ImportTimer) -> None:
    write(modules, b2_main=SLOW, b2_thread=SLOW)
    thread = threading.Thread(target=importlib.import_module, args=("b2_thread",))
    thread.start()
    importlib.import_module("b2_main")
    thread.join()
    assert {"b2_main", "b2_thread"} <= set(dict(timer.measured()))


def test_traceback_of_a_failing_import_is_the_same_with_the_timer(modules: Path) -> None:
    write(modules, b2_fails="1/0")

    def frames() -> list[str]:
        sys.modules.pop("b2_fails", None)
        with pytest.raises(ZeroDivisionError) as info:
            importlib.import_module("b2_fails")
        return [entry.name for entry in info.traceback]

    plain = frames()
    timer = ImportTimer()
    timer.install()
    assert frames() == plain
    timer.remove()
    timer.remove()  # a test may have taken it off the list already


def repeat(imports: Imports, name: str, seconds: float, tests: int) -> Imports:
    for _ in range(tests):
        imports.add(name, seconds)
    return imports


def test_hint_names_count_module_time_and_the_line_to_write() -> None:
    hint = repeat(Imports(), "trio", 0.031, 50).hint()
    assert hint == "50 tests each imported trio (31 ms): set isolate_preload = trio"


def test_hint_keeps_what_is_preloaded_already_and_orders_by_savings() -> None:
    hint = repeat(repeat(Imports(["attrs"]), "small", 0.05, 10), "big", 0.1, 10).hint()
    assert hint == "10 tests each imported big (100 ms) (and 1 more): set isolate_preload = attrs big small"


@pytest.mark.parametrize("seconds, tests", [(10.0, 2), (0.001, 50), (0.05, 2)])
def test_no_hint_where_preloading_would_save_little(seconds: float, tests: int) -> None:
    assert repeat(Imports(), "trio", seconds, tests).hint() is None


def test_preload_imports_in_order_and_names_every_failure(modules: Path) -> None:
    write(modules, b2_fine="", b2_exits="raise SystemExit(3)", b2_errs="1/0")
    with pytest.raises(pytest.UsageError) as info:
        preload(["b2_fine", "b2_absent", "b2_exits", "b2_errs", "no-name"])
    assert "b2_fine" in sys.modules
    text = "\n".join(info.value.args)
    assert "b2_absent can't be imported: ModuleNotFoundError" in text
    assert "b2_exits can't be imported: SystemExit: 3" in text
    assert "b2_errs can't be imported: ZeroDivisionError" in text
    assert "'no-name' is not a module's name" in text
    assert "remedy: " in text


def test_preload_of_nothing_does_nothing() -> None:
    preload([])
