"""What a sandbox isolates, as root and as an unprivileged user: each namespace, ids, files, processes."""

from __future__ import annotations

import pytest

from tests.support.callers import Caller, caller

__all__ = ["caller"]

NAMESPACES = ("user", "pid", "mnt", "net", "uts", "ipc", "cgroup")
LINKS = "{name: os.readlink(f'/proc/self/ns/{name}') for name in ('user','pid','mnt','net','uts','ipc','cgroup')}"


def test_every_namespace_is_new_in_each_sandbox(caller: Caller) -> None:
    # Both processes at a time, since a namespace may get the inode of one that is gone, and on cgroup v2 a test's cgroup namespace
    # goes with the test.
    outside, first, second = caller.run(
        f"""
def start(opened):
    code = "import json, os, sys; print(json.dumps({LINKS}), flush=True); sys.stdin.read()"
    return opened.popen([PYTHON, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
with box() as one, box() as other:
    processes = [start(one), start(other)]
    first, second = [json.loads(process.stdout.readline()) for process in processes]
    for process in processes:
        process.communicate()
    tell([{LINKS}, first, second])
"""
    )
    for name in NAMESPACES:
        assert len({outside[name], first[name], second[name]}) == 3, name


def test_net_host_shares_only_the_network_namespace(caller: Caller) -> None:
    outside, within = caller.run(f'tell([{LINKS}, inside("tell({LINKS})", net="host")])')
    assert [name for name in NAMESPACES if outside[name] == within[name]] == ["net"]


def test_net_none_has_a_working_loopback_and_nothing_else(caller: Caller) -> None:
    names, echoed, answer = caller.run(
        '''
tell(inside("""
import socket, errno
with socket.socket() as server, socket.socket() as client:
    server.bind(("127.0.0.1", 0)); server.listen()
    client.connect(server.getsockname())
    accepted, _ = server.accept()
    client.sendall(b"hello"); echoed = accepted.recv(5).decode()
    accepted.close()
with socket.socket() as far:
    try: far.connect(("192.0.2.1", 80)); answer = "connected"
    except OSError as error: answer = errno.errorcode[error.errno]
tell([[name for _, name in socket.if_nameindex()], echoed, answer])
"""))'''
    )
    assert names == ["lo"]
    assert echoed == "hello"
    assert answer == "ENETUNREACH"


def test_processes_see_only_their_own(caller: Caller) -> None:
    pids, own, parent = caller.run(
        "tell(inside('tell([sorted(int(n) for n in os.listdir(\"/proc\") if n.isdigit()), os.getpid(), os.getppid()])'))"
    )
    assert pids == [1, own]
    assert parent == 0


def test_bare_ids_are_the_callers_and_privileges_cannot_grow(caller: Caller) -> None:
    status = caller.run("tell(inside('tell([os.getuid(), os.getgid(), open(\"/proc/self/status\").read()])'))")
    fields = dict(line.split(":\t", 1) for line in status[2].splitlines() if ":\t" in line)
    docker = "00000000a80425fb"
    assert fields["NoNewPrivs"] == "1"
    if caller.is_root:
        assert status[:2] == [0, 0]
        assert (fields["CapEff"], fields["CapPrm"], fields["CapBnd"]) == (docker, docker, docker)
    else:
        assert status[:2] != [0, 0]
        assert {int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")} == {0}


def test_user_root_is_uid_0_and_can_chown_through_subordinate_ids(caller: Caller) -> None:
    uid, owner = caller.run(
        '''
tell(inside("""
path = "/tmp/owned"
open(path, "w").close()
os.chown(path, 7, 7)
tell([os.getuid(), os.stat(path).st_uid])
""", user="root"))'''
    )
    assert (uid, owner) == (0, 7)


def test_user_id_is_taken_on_without_capabilities(caller: Caller) -> None:
    # root's own interpreter may lie where only root can go
    uid, capabilities = caller.run(
        "PYTHON = '/usr/bin/python3'; tell(inside('tell([os.getuid(), [l.split()[1] for l in open(\"/proc/self/status\") if l.startswith(\"CapEff\")][0]])', user=4321))"
    )
    assert uid == 4321
    assert int(capabilities, 16) == 0


def test_hostname_is_its_own(caller: Caller) -> None:
    outside, kept, changed = caller.run(
        "n='tell(os.uname().nodename)'; tell([os.uname().nodename, inside(n), inside(n, hostname='box-7')])"
    )
    assert kept == outside
    assert changed == "box-7"


def test_environment_is_set_and_unset(caller: Caller) -> None:
    seen = caller.run(
        "os.environ['GONE'] = 'x'; tell(inside('tell([os.environ.get(\"TZ\"), os.environ.get(\"GONE\")])', env=(('GONE', None), ('TZ', 'UTC'))))"
    )
    assert seen == ["UTC", None]


def test_writes_are_seen_inside_and_gone_afterwards(caller: Caller) -> None:
    code = '''
here = os.getcwd()
open("kept", "w").write("before")
seen = inside("""
open("kept", "w").write("after"); open("new", "w").close(); os.mkdir("made"); os.rename("made", "renamed")
open("/tmp/new-by-test", "w").close(); open("/dev/shm/new", "w").close()
tell([open("kept").read(), sorted(os.listdir("."))])
""")
tell([seen, open("kept").read(), sorted(os.listdir(".")), os.path.exists("/tmp/new-by-test"), os.path.exists("/dev/shm/new")])
'''
    seen, kept, names, in_tmp, in_shm = caller.run(code)
    assert seen == ["after", ["kept", "new", "renamed"]]
    assert (kept, names, in_tmp, in_shm) == ("before", ["kept"], False, False)


def test_writable_passes_through_and_hide_empties(caller: Caller) -> None:
    code = '''
for name in ("out", "secret"): os.mkdir(name)
open("secret/key", "w").write("k"); open("note", "w").write("n")
here = os.getcwd()
seen = inside("""
open("out/result", "w").write("r")
tell([os.listdir("secret"), open("note").read()])
""", writable=(here + "/out",), hide=(here + "/secret", here + "/note"))
tell([seen, open("out/result").read(), os.listdir("secret")])
'''
    assert caller.run(code) == [[[], ""], "r", ["key"]]


@pytest.mark.parametrize("key", ["writable", "hide"])
def test_path_that_does_not_exist_names_step_path_and_remedy(caller: Caller, key: str) -> None:
    message = caller.run(
        f"""
try: inside("tell(1)", {key}=("/no/such/place",)); tell("built")
except SetupError as error: tell(str(error))
"""
    )
    assert "/no/such/place" in message
    assert "ENOENT" in message
    assert "remedy:" in message


def test_ipc_objects_stay_inside(caller: Caller) -> None:
    made = caller.run(
        """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
inside("import ctypes; tell(ctypes.CDLL(None).shmget(0x15017, 4096, 0o1600))")
tell(libc.shmget(0x15017, 4096, 0o600))
"""
    )
    assert made == -1


def test_abstract_sockets_and_host_loopback_are_out_of_reach(caller: Caller) -> None:
    answers = caller.run(
        '''
abstract = socket.socket(socket.AF_UNIX); abstract.bind(f"\\0isolate-{os.getpid()}"); abstract.listen()
listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen()
tell(inside("""
import socket, errno
answers = []
for family, address in ((socket.AF_UNIX, chr(0) + sys.argv[1]), (socket.AF_INET, ("127.0.0.1", int(sys.argv[2])))):
    with socket.socket(family) as client:
        try: client.connect(address); answers.append("connected")
        except OSError as error: answers.append(errno.errorcode[error.errno])
tell(answers)
""", f"isolate-{os.getpid()}", str(listener.getsockname()[1])))
'''
    )
    assert answers == ["ECONNREFUSED", "ECONNREFUSED"]


@pytest.mark.parametrize("call", ["os.kill(0, 9)", "os.killpg(0, 9)", "os.kill(-1, 9)"])
def test_signals_to_groups_never_reach_the_caller(caller: Caller, call: str) -> None:
    code = caller.run(
        f"""
with box() as opened:
    done = opened.run([PYTHON, "-c", "import os, signal, time; {call}; time.sleep(0.5)"])
tell(done.returncode)
"""
    )
    # kill(-1) spares the caller and PID 1: nothing is left to signal, ESRCH. The others end the caller, and only it.
    assert code == (1 if "-1" in call else -9)


def test_inherited_files_and_working_directory_go_along(caller: Caller) -> None:
    assert caller.run("os.mkdir('deep'); os.chdir('deep'); tell([os.getcwd() == inside('tell(os.getcwd())')])") == [True]
