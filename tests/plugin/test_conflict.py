"""The PyPI project `pytest-isolate` beside ours: refused when the plugin is imported, with the remedy."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from tests.support.isolated_runs import ROOT

REMEDY = "pip uninstall -y pytest-isolate pytest-isolate-sandbox && pip install pytest-isolate-sandbox"


@pytest.fixture
def site(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for installed projects, with ours in it the way pip leaves it; and a test."""
    site = pytester.mkdir("site")
    install(site, "pytest-isolate-sandbox", "1.0", "isolate_sandbox")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(ROOT)]))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makepyfile("def test_one(): pass")
    return site


def install(site: Path, name: str, version: str, entry_point: str) -> Path:
    directory = site / f"{name.replace('-', '_')}-{version}.dist-info"
    directory.mkdir()
    (directory / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (directory / "RECORD").write_text("")
    (directory / "entry_points.txt").write_text(f"[pytest11]\n{entry_point} = pytest_isolate.plugin\n")
    assert PathDistribution(directory).version == version
    return directory


def test_ours_alone_runs(pytester: pytest.Pytester, site: Path) -> None:
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:asyncio")
    result.assert_outcomes(passed=1)
    assert "isolate: " in result.stdout.str()


@pytest.mark.parametrize("entry_point", ["pytest_isolate", "isolate_sandbox"])
@pytest.mark.parametrize("args", [(), ("-p", "pytest_isolate.plugin"), ("-n", "2")], ids=["entry point", "named", "xdist"])
def test_other_project_beside_ours_is_refused_with_the_remedy(
    pytester: pytest.Pytester, site: Path, entry_point: str, args: tuple[str, ...]
) -> None:
    install(site, "pytest-isolate", "0.0.17", entry_point)
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:asyncio", *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = result.stderr.str()
    assert f"pytest-isolate-sandbox can't run beside the project pytest-isolate 0.0.17 in {site}" in text
    assert REMEDY in text
    assert "Traceback" not in text


def test_metadata_half_removed_is_refused_too(pytester: pytest.Pytester, site: Path) -> None:
    (install(site, "pytest-isolate", "0.0.17", "other") / "METADATA").unlink()
    result = pytester.runpytest_subprocess("-p", "pytest_isolate.plugin", "-p", "no:randomly", "-p", "no:asyncio")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert REMEDY in result.stderr.str()


def test_project_whose_name_only_begins_like_the_others_is_no_conflict(pytester: pytest.Pytester, site: Path) -> None:
    directory = install(site, "pytest-isolate-extra", "1.0", "unused")
    (directory / "entry_points.txt").unlink()
    install(site, "pytest-isolated", "0.5", "unused").joinpath("entry_points.txt").unlink()
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:asyncio")
    result.assert_outcomes(passed=1)


def test_file_that_the_others_uninstallation_took_along_is_missed(
    pytester: pytest.Pytester, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "pytest_isolate", site / "pytest_isolate")
    (site / "pytest_isolate" / "__init__.py").unlink()
    # An editable installation of the checkout would be found in place of the damaged one.
    (site / "sitecustomize.py").write_text(f"import sys\nsys.path[:] = [path for path in sys.path if path != {str(ROOT)!r}]\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:asyncio")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "pip install --force-reinstall pytest-isolate-sandbox" in result.stderr.str()
