"""Entering a sandbox: one fork of the calling process into namespaces and cgroup that already exist.

As real root the caller points its `pid_for_children` at the sandbox, forks, and points it back. An unprivileged
caller isn't let back (setns to the own PID namespace is EPERM without CAP_SYS_ADMIN there). If it has one thread the
test process is born inside (`born_inside`), also at the price of one copy of the address space; with threads, a first
fork enters and makes the test process as its sibling (`clone.sibling`): two copies. Every way the test process is a
direct child of the caller.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_isolate.kernel import born_inside
from pytest_isolate.kernel.capabilities import join_session_keyring
from pytest_isolate.kernel.cgroup import Group, join
from pytest_isolate.kernel.cgroup_open import OpenGroup
from pytest_isolate.kernel.clone import fork_into, sibling
from pytest_isolate.kernel.namespaces import ALL, CLONE_NEWCGROUP, CLONE_NEWNET, CLONE_NEWPID
from pytest_isolate.kernel.signals import block_signals, restore_signals
from pytest_isolate.kernel.syscalls import setns, unshare
from pytest_isolate.model.errors import IsolateError, SetupError
from pytest_isolate.model.spec import Spec
from pytest_isolate.sandbox.identity import drop_privileges

if TYPE_CHECKING:
    from pytest_isolate.sandbox.builder_process import BuilderProcess
    from pytest_isolate.sandbox.counting import Counting

__all__ = ["EXIT_NOT_JOINED", "Entrance"]

EXIT_NOT_JOINED: Final = 70
"""Exit status of a process that could not join its sandbox (EX_SOFTWARE)."""

_NOT_BORN: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.E2BIG, errno.EOPNOTSUPP, errno.EDEADLK})
"""Where nothing can be born in a cgroup: an old kernel, a filter that knows no clone3(2), threads. Then it joins afterwards."""

Failed = Callable[[SetupError], object]


@dataclass(frozen=True, slots=True)
class Entrance:
    """What a process needs to enter one sandbox.

    Attributes:
        spec: the test's spec.
        pidfd: of init.
        group: the cgroup description, None without cgroups.
        rootless: which of the two ways.
        own_pid_namespace: fd of the caller's PID namespace.
        builder: whose fds only the parent may keep.
    """

    spec: Spec
    builder: BuilderProcess
    pidfd: int
    group: Group | None
    rootless: bool
    own_pid_namespace: int

    def fork(self, failed: Failed, counting: Counting | None = None) -> int:
        """os.fork into the sandbox; see `Sandbox.fork`.

        Args:
            counting: what counts the instructions of the new process.

        Raises:
            OSError: from fork itself, or setns(2) of a sandbox that is gone.
        """
        if self.rootless and not born_inside.available():
            return self._fork_twice(failed, counting)
        unified = self.group is not None and bool(self.group.v2)
        try:
            group = OpenGroup(self.group) if self.rootless or unified else None
        except OSError:  # joining by path will say what is wrong with them
            return self._fork_twice(failed, counting) if self.rootless else self._fork_once(None, failed, counting)
        if group is None:
            return self._fork_once(None, failed, counting)
        with group:
            return self._fork_inside(group, failed, counting) if self.rootless else self._fork_once(group, failed, counting)

    def _fork_once(self, group: OpenGroup | None, failed: Failed, counting: Counting | None) -> int:
        blocked = block_signals()
        pid = -1
        born = False
        try:
            setns(self.pidfd, CLONE_NEWPID)
            try:
                pid, born = _fork_into(group.directory if group else None)
            finally:
                if pid != 0:
                    setns(self.own_pid_namespace, CLONE_NEWPID)
        finally:
            if pid != 0:
                restore_signals(blocked)
        if pid == 0:
            if counting is not None:
                self._guard(failed, counting.open)
            self._guard(failed, lambda: self._join(group, born=born))
            self._guard(failed, lambda: self._enter(self._namespaces() & ~CLONE_NEWPID))
            self._guard(failed, lambda: self._settle(counting))
            restore_signals(blocked)
        return pid

    def _join(self, group: OpenGroup | None, *, born: bool) -> None:
        if group is not None:
            group.join(born=born)
        elif self.group is not None:
            join(self.group)

    def _fork_inside(self, group: OpenGroup, failed: Failed, counting: Counting | None) -> int:
        here = _working_directory()
        blocked = block_signals()
        pid = -1
        born = False
        try:
            pid, born = self._born_inside(group.directory)
        finally:
            if pid != 0:
                if isinstance(here, int):
                    os.close(here)
                restore_signals(blocked)
        if pid == 0:
            self._guard(failed, lambda: group.join(born=born))
            self._guard(failed, self._begin_cgroup_namespace)
            self._guard(failed, lambda: self._go_to(here))
            if counting is not None:
                self._guard(failed, counting.open)
            self._guard(failed, lambda: self._settle(counting))
            restore_signals(blocked)
        return pid

    def _born_inside(self, directory: int | None) -> tuple[int, bool]:
        """Pid, and whether it was born in the v2 directory, too."""
        if directory is not None:
            try:
                return born_inside.fork_inside(self.pidfd, self._namespaces() & ~CLONE_NEWCGROUP, directory), True
            except OSError as error:
                if error.errno not in _NOT_BORN:
                    raise
        return born_inside.fork_inside(self.pidfd, self._namespaces()), False

    def _fork_twice(self, failed: Failed, counting: Counting | None) -> int:
        told, tell = os.pipe()
        blocked = block_signals()
        first = -1
        try:
            first = _os_fork()
            if first == 0:
                os.close(told)
                self._guard(failed, lambda: self._join(None, born=False))
                self._guard(failed, lambda: self._enter(self._namespaces()))
                pid = self._guard(failed, sibling)
                if pid:
                    os.write(tell, b"%d" % pid)
                    os._exit(0)
                os.close(tell)
                if counting is not None:
                    self._guard(failed, counting.open)
                self._guard(failed, lambda: self._settle(counting))
                restore_signals(blocked)
                return 0
            os.close(tell)
            answer = os.read(told, 32)
            if not answer:  # it couldn't join, has said so, and is waited for as the test process would be
                return first
            os.waitpid(first, 0)
            return int(answer)
        finally:
            if first != 0:
                os.close(told)
                restore_signals(blocked)

    def _namespaces(self) -> int:
        return ALL & ~CLONE_NEWNET if self.spec.net.mode == "host" else ALL

    def _enter(self, namespaces: int) -> None:
        """The working directory last, by its path. The cgroup has been joined: its files can't be reached from inside."""
        here = _working_directory()
        setns(self.pidfd, namespaces)
        self._begin_cgroup_namespace()
        self._go_to(here)

    def _go_to(self, here: str | int) -> None:
        """Programs of a foreign root start where its image says, everything else where the caller is."""
        if self.spec.foreign and self.spec.code is None:
            config = self.spec.stack.config if self.spec.stack else None
            if isinstance(here, int):
                os.close(here)
            here = (config.working_dir if config else "") or "/"
        _go_to(here)

    def _begin_cgroup_namespace(self) -> None:
        """Init's begins at init's own group; in the v2 tree the test's begins at the test's, so that it is ``/`` inside."""
        if self.group is not None and self.group.v2:
            unshare(CLONE_NEWCGROUP)

    def _settle(self, counting: Counting | None) -> None:
        """What makes the process its own: process group, keyring, privileges, environment; and from here on it is counted."""
        os.setpgid(0, 0)
        join_session_keyring()
        drop_privileges(self.spec, rootless=self.rootless)
        self.builder.close_fds()
        for name, value in self.spec.env:
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if counting is not None:
            counting.start()

    def _guard(self, failed: Failed, step: Callable[[], Any]) -> Any:
        """`step`, or the end of this process: nothing of a test runs in a sandbox that it joined by half."""
        try:
            return step()
        except BaseException as error:  # noqa: BLE001 - whatever it is, nothing may run after it
            try:
                failed(_as_setup_error(error))
            finally:
                os._exit(EXIT_NOT_JOINED)


def _as_setup_error(error: BaseException) -> SetupError:
    if isinstance(error, SetupError):
        return error
    if isinstance(error, OSError):
        return SetupError.from_os_error("join the sandbox", error)
    detail = error.message if isinstance(error, IsolateError) else repr(error)
    return SetupError("join the sandbox", detail=detail)


def _os_fork() -> int:
    """os.fork without the DeprecationWarning that Python 3.12 gives a process with threads: the plugin says
    in its own words which threads were alive, and under ``-W error`` the warning would fail every test."""
    if sys.version_info < (3, 12):
        return os.fork()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _fork_into(directory: int | None) -> tuple[int, bool]:
    """os.fork; and whether the child was born in the cgroup v2 `directory`, which spares it waiting for an RCU grace period."""
    if directory is not None:
        try:
            return fork_into(directory), True
        except OSError as error:
            if error.errno not in _NOT_BORN:
                raise
    return _os_fork(), False


def _working_directory() -> str | int:
    """Its path, or an fd of a directory that no path leads to any more."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _go_to(here: str | int) -> None:
    """To what `_working_directory` gave, seen from inside."""
    if isinstance(here, int):
        os.fchdir(here)
        os.close(here)
        return
    try:
        os.chdir(here)
    except OSError as error:
        hint = "the working directory isn't there inside: take it out of hide=, add it to inputs=, or run pytest from another one"
        raise SetupError.from_os_error("chdir", error, here, hint) from None
