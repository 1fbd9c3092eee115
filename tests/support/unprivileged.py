"""Run Python and whole pytest suites as a real unprivileged user, from tests that run as root.

Root's own interpreter and checkout may lie where no user can go (`/root/.pyenv`), so the user gets a venv of an interpreter that it
can run, with pytest of the version that runs now, and a copy of the package under test with its entry points. Both are cached in
`/var/cache/isolate-tests` (or `$ISOLATE_TESTS_CACHE`), by what they were made from. The user has an account, because newuidmap(1)
looks for one, with subordinate ids. `python -m tests.support.unprivileged --remove` takes all of it away.

A caller who is no root is an unprivileged user already: everything then runs as the caller.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import filelock
import pytest

from tests.support.bytecode import write_bytecode

__all__ = [
    "USER_ID",
    "cgroup_options",
    "delegated_cgroup",
    "find_python",
    "interpreter",
    "package_tree",
    "pytest_as_user",
    "run_as_user",
    "run_python",
    "user_directory",
]

USER_ID: Final = 64321
"""User and group id of the account."""

USER_NAME: Final = "isolate-tests"

_SUBORDINATE: Final = "643210000-643275535"
_ROOT: Final = Path(__file__).parents[2]
_BASE: Final = Path(os.environ.get("ISOLATE_TESTS_CACHE", "/var/cache/isolate-tests"))
_EXTRA: Final = ("pytest-xdist",)
_OLDEST: Final = (3, 11)


def run_as_user(
    args: Sequence[str | os.PathLike[str]],
    *,
    cwd: str | os.PathLike[str] = "/",
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float = 120,
    user: int = USER_ID,
) -> subprocess.CompletedProcess[str]:
    """Run a command as the unprivileged user, in a clean environment, output captured, status not checked.

    Args:
        cwd: a directory the user can enter; see `user_directory`.
        env: added to PATH, HOME, LC_ALL and PYTHONPATH (the copy of the package).
        user: another id: one without an account, as containers have it.
    """
    place = _prepare()
    whole = {
        "PATH": os.defpath + ":/usr/sbin:/sbin",
        "HOME": str(place.home),
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(place.tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        **({"XDG_RUNTIME_DIR": _runtime_directory()} if Path(_runtime_directory()).is_dir() and user == USER_ID else {}),
        **(env or {}),
    }
    as_root = os.geteuid() == 0
    return subprocess.run(
        [os.fspath(arg) for arg in args],
        cwd=cwd,
        env=whole,
        input=stdin or "",
        user=user if as_root else None,
        group=user if as_root else None,
        extra_groups=[] if as_root else None,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )


def run_python(code: str, *args: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """Run `code` as the unprivileged user, the package importable; output captured, status not checked."""
    return run_as_user([_prepare().python, "-c", code, *args], timeout=timeout)


def pytest_as_user(
    *args: str, cwd: str | os.PathLike[str], env: Mapping[str, str] | None = None, timeout: float = 120, user: int = USER_ID
) -> subprocess.CompletedProcess[str]:
    """Run pytest with the plugin in `cwd` as the unprivileged user; output captured, status not checked."""
    return run_as_user([_prepare().python, "-m", "pytest", *args], cwd=cwd, env=env, timeout=timeout, user=user)


def find_python() -> str | None:
    """The interpreter that `run_python` uses; None if the user can run none."""
    try:
        return _prepare().python
    except LookupError:
        return None


def package_tree() -> Path:
    """The copy of the package that the user can read, for PYTHONPATH."""
    return _prepare().tree


@contextmanager
def user_directory(files: Mapping[str, str] | None = None, user: int = USER_ID) -> Iterator[Path]:
    """A new directory of the user's own, with `files` (text by relative path) in it; removed at the end."""
    work = _prepare().work
    path = Path(tempfile.mkdtemp(dir=work))
    try:
        for name, text in (files or {}).items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text, encoding="utf-8")
        if os.geteuid() == 0:
            for entry in (path, *path.rglob("*")):
                os.chown(entry, user, user)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def delegated_cgroup() -> Iterator[str | None]:
    """A cgroup for the user's runs; gives what ``--isolate-cgroup=`` takes, None where none has to be named. For root only.

    Where controllers are on v1: a directory chowned to the user in every hierarchy. Else the user's own systemd, which
    is asked by the runs themselves.
    """
    name = f"delegated-to-user-{os.getpid()}-{time.monotonic_ns()}"
    points = [point for point in Path("/sys/fs/cgroup").iterdir() if (point / "tasks").exists() and not point.is_symlink()]
    if not any((point / "memory.limit_in_bytes").exists() for point in points):
        _prepare()
        start_user_manager()
        yield None
        return
    made = [point / name for point in points]
    try:
        for directory in made:
            directory.mkdir()
            for entry in (directory, directory / "tasks", directory / "cgroup.procs"):
                os.chown(entry, USER_ID, USER_ID)
        yield name
    finally:
        for directory in made:
            _remove_cgroup(directory)


def cgroup_options(group: str | None) -> list[str]:
    """pytest's options for what `delegated_cgroup` gave."""
    return [] if group is None else [f"--isolate-cgroup={group}"]


@cache
def start_user_manager() -> None:
    """Have systemd run a manager for the user, as it does for one who is logged in. Raises LookupError without systemd."""
    if os.geteuid() != 0:
        return
    if not Path("/run/systemd/system").is_dir():
        raise LookupError("systemd doesn't run here, and nobody else hands a cgroup of v2 to the user")
    # What it hands down otherwise lacks io. Below /run, it is gone with the next boot.
    settings = Path(f"/run/systemd/system/user@{USER_ID}.service.d")
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "delegate.conf").write_text("[Service]\nDelegate=cpu cpuset io memory pids\n")
    subprocess.run(["systemctl", "daemon-reload"], check=True, capture_output=True)
    subprocess.run(["loginctl", "enable-linger", USER_NAME], check=True, capture_output=True)
    deadline = time.monotonic() + 60
    while not Path(_runtime_directory(), "bus").exists():
        if time.monotonic() > deadline:
            raise LookupError(f"user@{USER_ID}.service doesn't come up")
        time.sleep(0.05)


def _runtime_directory() -> str:
    """Where the user's manager and bus are."""
    return f"/run/user/{os.geteuid() or USER_ID}"


def _remove_cgroup(directory: Path) -> None:
    """rmdir answers EBUSY until the last task is reaped; for tests two seconds of that are a failure."""
    deadline = time.monotonic() + 2
    while True:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


class _Place:
    """Where the user's things are."""

    def __init__(self, python: str, tree: Path, home: Path, work: Path) -> None:
        self.python, self.tree, self.home, self.work = python, tree, home, work


@cache
def _prepare() -> _Place:
    """Raises LookupError where there is no interpreter that the user can run."""
    base = _BASE if os.geteuid() == 0 else Path(tempfile.gettempdir()) / f"isolate-tests-{os.geteuid()}"
    base.mkdir(mode=0o755, parents=True, exist_ok=True)
    if base.stat().st_uid != os.geteuid() or base.is_symlink():
        raise PermissionError(f"{base} belongs to somebody else; set ISOLATE_TESTS_CACHE to another directory")
    with filelock.FileLock(base / "lock"):
        if os.geteuid() == 0:
            _account(base)
        python, tree = _venv(base), _tree(base)
        _compile(python, tree)
        return _Place(python, tree, _made(base / "home"), _made(base / "work"))


def _made(path: Path) -> Path:
    path.mkdir(mode=0o755, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(path, USER_ID, USER_ID)
    return path


def _account(base: Path) -> None:
    try:
        pwd.getpwuid(USER_ID)
    except KeyError:
        commands = [
            f"groupadd --gid {USER_ID} {USER_NAME}",
            f"useradd --uid {USER_ID} --gid {USER_ID} --no-create-home --home-dir {base / 'home'} --shell /bin/sh {USER_NAME}",
            f"usermod --add-subuids {_SUBORDINATE} --add-subgids {_SUBORDINATE} {USER_NAME}",
        ]
        for command in commands:
            subprocess.run(command.split(), check=True, capture_output=True)


def interpreter() -> str:
    """An interpreter for the user: the one that runs now where its prefix can be entered, else one of the system's."""
    now = os.path.realpath(sys.executable)
    probe = f"import sys, venv, ensurepip; assert sys.version_info >= {_OLDEST}"
    user = USER_ID if os.geteuid() == 0 else None
    for python in (now, *(f"/usr/bin/python3{minor}" for minor in ("", ".13", ".12", ".11"))):
        try:
            done = subprocess.run([python, "-Ic", probe], user=user, capture_output=True, cwd="/", check=False)
        except OSError:  # EACCES: somewhere below /root
            continue
        if done.returncode == 0:
            return python
    raise LookupError(f"no Python >= {_OLDEST} with venv that user {USER_ID} can run")


def _venv(base: Path) -> str:
    python = interpreter()
    with open(_ROOT / "pyproject.toml", "rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    wanted: list[str] = [*dependencies, *_EXTRA, f"pytest=={pytest.__version__}"]
    directory = base / f"venv-{_digest(python, *wanted)}"
    done = directory / "done"
    if not done.exists():
        shutil.rmtree(directory, ignore_errors=True)
        subprocess.run([python, "-m", "venv", str(directory)], check=True, capture_output=True)
        # Isolated: what PYTHONPATH leads to would count as installed.
        pip = [f"{directory}/bin/python", "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        answer = subprocess.run([*pip, *wanted], capture_output=True, text=True, check=False)
        if answer.returncode:
            raise RuntimeError(f"pip install {' '.join(wanted)}: {answer.stderr}")
        done.touch()
    return str(directory / "bin/python")


def _tree(base: Path) -> Path:
    """The package and its entry points in a directory that everyone can read, named by its contents."""
    files = sorted(path for path in (_ROOT / "pytest_isolate").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    contents = {path.relative_to(_ROOT): path.read_bytes() for path in (*files, _ROOT / "pyproject.toml")}
    tree = base / f"tree-{_digest(*(repr(item) for item in contents.items()))}"
    if not tree.exists():
        half = Path(tempfile.mkdtemp(dir=base))
        half.chmod(0o755)
        for path, content in contents.items():
            (half / path).parent.mkdir(parents=True, exist_ok=True)
            (half / path).write_bytes(content)
        _write_dist_info(half)
        half.rename(tree)
    os.utime(tree)
    for old in base.glob("tree-*"):
        if old.stat().st_mtime < time.time() - 86400:
            shutil.rmtree(old, ignore_errors=True)
    return tree


def _compile(python: str, tree: Path) -> None:
    """What the user can't write there; nothing where a machine is made, which gets the package later (tests/vm)."""
    done = tree / f"compiled-{_digest(python)}"
    if not done.exists() and (tree / "pytest_isolate").exists():
        write_bytecode(python, tree)
        done.touch()


def _write_dist_info(tree: Path) -> None:
    """What pip would have written and importlib.metadata reads: name, version, entry points."""
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = tree / f"{project['name'].replace('-', '_')}-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0\n", encoding="utf-8")
    points = {**project["entry-points"], "console_scripts": project["scripts"]}
    lines = [
        line for group, names in points.items() for line in (f"[{group}]", *(f"{name} = {to}" for name, to in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def remove() -> None:
    """Take away the account and the cache."""
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["loginctl", "disable-linger", USER_NAME], capture_output=True, check=False)
    shutil.rmtree(_BASE, ignore_errors=True)
    subprocess.run(["userdel", USER_NAME], capture_output=True, check=False)


if __name__ == "__main__":
    if sys.argv[1:] == ["--remove"]:
        remove()
    else:
        print(_prepare().python)
