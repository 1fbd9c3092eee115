"""How a process gets inside: what the copy inherits, how often memory is copied, what a refusal says. As root and as a user."""

from __future__ import annotations

import errno
import platform
import subprocess
import sys

import pytest

from tests.support.callers import Caller, caller
from tests.support.capabilities import on_layout, requires, why_missing

__all__ = ["caller"]

FORKED = """
import ctypes
CALLS = []
for moment in ("before", "after_in_parent", "after_in_child"):
    os.register_at_fork(**{moment: lambda moment=moment: CALLS.append(moment.removeprefix("after_in_"))})

def forked(function, **spec):
    # [what `function` returns in a process inside, its exit status]; a refusal instead where it didn't get there
    read, write = os.pipe()
    with box(**spec) as opened:
        CALLS.clear()
        pid = opened.fork(lambda error: os.write(write, json.dumps({"refused": str(error)}).encode()))
        if pid == 0:
            try: os.write(write, json.dumps(function()).encode())
            finally: os._exit(7)
        os.close(write)
        with open(read) as file: answer = file.read()
        return [json.loads(answer or "null"), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]
"""


def test_caller_with_one_thread_is_copied_once(caller: Caller) -> None:
    inside, outside = caller.run(FORKED + "inside = forked(lambda: CALLS); tell([inside, CALLS])")
    # A before and a child for each copy of the memory that the process inside descends from.
    copies = 1 if caller.is_root or not why_missing("machine-code") else 2
    assert inside == [["before", "child"] * copies, 7]
    assert outside == ["before", "parent"]


def test_caller_with_threads_is_forked_by_libc(caller: Caller) -> None:
    code = """
stop = threading.Event()
thread = threading.Thread(target=stop.wait)
thread.start()
libc = ctypes.CDLL(None)
PREPARE = ctypes.CFUNCTYPE(None)(lambda: CALLS.append("libc"))
register = getattr(libc, "__register_atfork")
register(PREPARE, None, None, None)
inside = forked(lambda: [CALLS, threading.active_count()])
stop.set(); thread.join()
tell([inside, CALLS])
"""
    inside, outside = caller.run(FORKED + code)
    expected = ["before", "libc", "child"] if caller.is_root else ["before", "libc", "child", "before", "child"]
    assert inside == [[expected, 1], 7]
    assert outside == ["before", "libc", "parent"]


def test_process_inside_is_a_direct_child_and_nothing_else_is_left(caller: Caller) -> None:
    code = """
children = lambda: open(f"/proc/self/task/{os.getpid()}/children").read().split()
with box() as opened:
    before = children()
    pid = opened.fork(print)
    if pid == 0: time.sleep(60)
    more = set(children()) - set(before)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
tell([more == {str(pid)}, children() == before])
"""
    assert caller.run(code) == [True, True]


def test_libc_knows_the_thread_it_runs_in(caller: Caller) -> None:
    code = """
def look():
    libc = ctypes.CDLL(None)
    hits = []
    signal.signal(signal.SIGUSR1, lambda *_: hits.append(1))
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)   # glibc's own copy of the thread id
    started = []
    thread = threading.Thread(target=lambda: started.append(threading.get_native_id()))
    thread.start(); thread.join()
    head, size = ctypes.c_void_p(), ctypes.c_size_t()
    libc.syscall(274 if os.uname().machine == "x86_64" else 100, 0, ctypes.byref(head), ctypes.byref(size))
    return [libc.getpid() == os.getpid() == libc.gettid() == threading.get_native_id(), hits, len(started), started[0] != os.getpid(), bool(head.value)]
tell(forked(look))
"""
    assert caller.run(FORKED + code) == [[True, [1], 1, True, True], 7]


@requires("two-cpus")
def test_number_of_the_cpu_is_that_of_now(caller: Caller) -> None:
    code = """
def look():
    libc = ctypes.CDLL(None)
    seen = []
    for cpu in sorted(os.sched_getaffinity(0))[:2] * 2:
        os.sched_setaffinity(0, [cpu])
        seen.append(libc.sched_getcpu() == cpu)
    return seen
tell(forked(look))
"""
    assert caller.run(FORKED + code) == [[True] * 4, 7]


def test_signals_are_as_before_on_both_sides(caller: Caller) -> None:
    code = """
mask = lambda: sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
ended = []
signal.signal(signal.SIGUSR1, lambda *_: ended.append("USR1"))
os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGUSR1))
inside = forked(lambda: [mask(), ended])
tell([inside, mask(), ended])
"""
    # Sent while all are blocked: it arrives in the caller once it has forked, and is not the child's.
    assert caller.run(FORKED + code) == [[[[12], []], 7], [12], ["USR1"]]


def test_caller_stays_dumpable_and_in_its_own_namespaces(caller: Caller) -> None:
    code = """
state = lambda: [ctypes.CDLL(None).prctl(3), os.getcwd(), os.umask(0o22), [os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")], os.stat("/proc/self/fd").st_uid]
before = state()
forked(lambda: None)
tell(state() == before)
"""
    assert caller.run(FORKED + code) is True


def test_hundred_forks_disturb_nothing(caller: Caller) -> None:
    code = """
heap = {number: [number, str(number)] for number in range(20000)}
with box() as opened:
    fds = os.listdir("/proc/self/fd")
    for number in range(100):
        pid = opened.fork(print)
        if pid == 0: os._exit(number if heap[number] == [number, str(number)] else 101)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == number
    tell([all(value == [key, str(key)] for key, value in heap.items()), os.listdir("/proc/self/fd") == fds])
"""
    assert caller.run(code) == [True, True]


@requires("unprivileged-user", "userns")
@pytest.mark.parametrize("caller", ["user"], indirect=True)
def test_limit_on_processes_is_a_setup_error(caller: Caller) -> None:
    code = """
import resource
with box() as opened:
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
    try: opened.fork(print); message = "forked"
    except SetupError as error: message = str(error)
    resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
    tell([message, opened.run(["true"]).returncode, CALLS])
"""
    message, again, calls = caller.run(FORKED + code)
    assert "EAGAIN" in message
    assert "ulimit -u" in message
    assert again == 0
    assert calls[:2] == ["before", "parent"]


def test_killed_sandbox_is_told_as_gone(caller: Caller) -> None:
    code = """
with box() as opened:
    os.kill(opened.init_pid, signal.SIGKILL)
    assert opened.ended(5)
    try: opened.fork(print); tell("forked")
    except SandboxGone as error: tell(str(error))
"""
    assert "ended before it was entered" in caller.run(code)


CLONE, SETNS = {"aarch64": (220, 268)}.get(platform.machine(), (56, 308))

# (call, its number, which argument is looked at, for which bit; what seccomp answers then)
REFUSALS = [
    ("clone", CLONE, 0, 0x4000, errno.EAGAIN),  # CLONE_VFORK: of the one that makes the process
    ("setns", SETNS, 1, 0x20000000, errno.EPERM),
    # CLONE_PARENT: of the process. In a v2 group it is born by clone3, whose flags no filter can see.
    pytest.param("clone", CLONE, 0, 0x8000, errno.ENOMEM, marks=on_layout("v1", "hybrid", "mixed")),
]

FILTER = """
class Filter(ctypes.Structure): _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]
class Program(ctypes.Structure): _fields_ = [("length", ctypes.c_uint16), ("filters", ctypes.POINTER(Filter))]

def refuse(number, argument, bit, action):
    # seccomp(2): of system call `number`, if `bit` is set in `argument`, do `action`; let all else pass
    steps = (Filter * 6)((0x20, 0, 0, 0), (0x15, 0, 3, number), (0x20, 0, 0, 16 + 8 * argument), (0x45, 0, 1, bit), (0x06, 0, 0, action), (0x06, 0, 0, 0x7FFF0000))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(Program(6, steps))) == 0
"""


AGAIN = """
import ctypes, errno
from pytest_isolate.kernel.syscalls import syscall
from pytest_isolate.kernel.thread_record import _RSEQ_SIGNATURE, ThreadRecord
address, length = ThreadRecord.of_caller(rseq=True).rseq
try: syscall("rseq", ctypes.c_void_p(address), length, 0, _RSEQ_SIGNATURE)
except OSError as error: print(errno.errorcode[error.errno])
"""


@requires("machine-code")
def test_restartable_sequences_are_known_where_libc_has_them() -> None:
    """A second registration with the same address, length and signature is EBUSY; another signature would be EPERM, another address EINVAL (rseq(2))."""
    done = subprocess.run([sys.executable, "-c", AGAIN], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("EBUSY\n", "")


REFUSED = """
with box() as opened:
    refuse(*{refusal})
    try: opened.fork(print); tell("forked")
    except SetupError as error: tell([error.errno, error.detail, CALLS, sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))])
"""


@requires("unprivileged-user", "userns", "machine-code")
@pytest.mark.parametrize("caller", ["user"], indirect=True)
@pytest.mark.parametrize("call,number,argument,bit,answer", REFUSALS)
def test_refused_step_of_being_born_inside_is_told(
    caller: Caller, call: str, number: int, argument: int, bit: int, answer: int
) -> None:
    code, detail, calls, blocked = caller.run(
        FORKED + FILTER + REFUSED.format(refusal=(number, argument, bit, 0x00050000 | answer))
    )
    assert code == answer
    assert call in detail
    assert calls == ["before", "parent"]
    assert blocked == []


@requires("unprivileged-user", "userns", "machine-code")
@pytest.mark.parametrize("caller", ["user"], indirect=True)
def test_killed_maker_of_the_process_is_told(caller: Caller) -> None:
    code, detail, calls, blocked = caller.run(
        FORKED + FILTER + REFUSED.format(refusal=(SETNS, 1, 0x20000000, 0x80000000))  # SECCOMP_RET_KILL_PROCESS
    )
    assert code == errno.ESRCH
    assert "killed" in detail
    assert calls == ["before", "parent"]
    assert blocked == []


def test_cgroup_that_is_gone_is_told_by_its_path(caller: Caller) -> None:
    code = """
with box() as opened:
    directory = opened.group.directories()[0]
    os.rmdir(directory)
    try: opened.run(["true"]); tell("ran")
    except SetupError as error: tell([str(error), directory])
"""
    message, directory = caller.run(code)
    assert f"join cgroup {directory}" in message
    assert "remedy:" in message


INTO = """
import ctypes, errno
from pytest_isolate.kernel.clone import fork_into
from pytest_isolate.kernel.mounts import mountinfo
CALLS = []
os.register_at_fork(before=lambda: CALLS.append("before"), after_in_child=lambda: CALLS.append("child"))
base = next(mount.point for mount in mountinfo() if mount.fstype == "cgroup2")
group = f"{base}/isolate-test-{os.getpid()}"
os.mkdir(group)
try:
    fd = os.open(group, os.O_PATH)
    CASE
finally:
    os.rmdir(group)
"""


@requires("root", "cgroup2")
@pytest.mark.parametrize("caller", ["root"], indirect=True)
def test_fork_into_is_born_in_a_cgroup_v2_directory(caller: Caller) -> None:
    case = """
    read, write = os.pipe()
    pid = fork_into(fd)
    if pid == 0:
        with open("/proc/self/cgroup") as file: own = [line.strip() for line in file if line.startswith("0::")]
        libc = ctypes.CDLL(None)
        tasks = [libc.getpid() == libc.gettid() == os.getpid(), libc.pthread_kill(ctypes.c_size_t(threading.get_ident()), 0)]
        os.write(write, json.dumps([own, CALLS, tasks]).encode())
        os._exit(5)
    os.close(write)
    with open(read) as file: answer = json.load(file)
    tell([answer, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), group])
"""
    (own, calls, tasks), status, group = caller.run(INTO.replace("CASE", case.strip()))
    assert own[0].endswith("/" + group.rpartition("/")[2])
    assert calls == ["before", "child"]
    assert tasks == [True, 0]
    assert status == 5


@requires("root", "cgroup2")
@pytest.mark.parametrize("caller", ["root"], indirect=True)
def test_fork_into_refuses_threads_and_what_is_no_group(caller: Caller) -> None:
    case = """
    def refusal():
        try: return fork_into(fd)
        except OSError as error: return error.errno
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    threaded = refusal()
    stop.set(); thread.join()
    while os.stat("/proc/self/task").st_nlink > 3: time.sleep(0.01)
    os.close(fd)
    tell([threaded, refusal(), CALLS])
"""
    threaded, closed, calls = caller.run(INTO.replace("CASE", case.strip()))
    assert (threaded, closed) == (errno.EDEADLK, errno.EBADF)
    assert calls == ["before"]


@requires("root", "unprivileged-user", "userns", "machine-code", "cgroup2")
@pytest.mark.parametrize("caller", ["root"], indirect=True)
def test_fork_inside_is_born_in_a_cgroup_v2_directory(caller: Caller) -> None:
    case = """
    from pytest_isolate.kernel.born_inside import fork_inside
    from pytest_isolate.kernel.namespaces import ALL, CLONE_NEWCGROUP
    from pytest_isolate.kernel.signals import block_signals, restore_signals
    read, write = os.pipe()
    with box() as opened:
        mask = block_signals()
        pid = fork_inside(opened._place.entrance.pidfd, ALL & ~CLONE_NEWCGROUP, fd)
        if pid == 0:
            os.write(write, json.dumps([os.getpid(), os.listdir("/sys/class/net"), CALLS]).encode())
            time.sleep(60)
        restore_signals(mask)
        answer = json.loads(os.read(read, 1000))
        with open(f"{group}/cgroup.procs") as file: members = file.read().split()
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    tell([answer, members == [str(pid)]])
"""
    (pid, interfaces, calls), member = caller.run(INTO.replace("CASE", case.strip()))
    assert pid < 10
    assert interfaces == ["lo"]
    assert calls == ["before", "child"]
    assert member
