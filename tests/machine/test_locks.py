"""Two runs in one folder refuse each other; a dead owner locks nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tlg_lib.errors import TLGError
from tlg_lib.machine.locks import folder_lock, is_locked, living_owner, owner

HOLD = """
import sys, time
from tlg_lib.machine.locks import folder_lock
with folder_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(folder, seconds=60.0):
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    return child


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path):
    child = hold(tmp_path)
    try:
        assert is_locked(tmp_path) and owner(tmp_path)["pid"] == child.pid
        with pytest.raises(TLGError, match=f"in use by process {child.pid} on .* choose another folder") as caught:
            with folder_lock(tmp_path):
                pytest.fail("entered a locked folder")
        assert caught.value.code == 4
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_kill_9_frees_the_folder(tmp_path):
    child = hold(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert owner(tmp_path)["pid"] == child.pid, "the dead owner's note is still there, as after a power cut"
    assert not is_locked(tmp_path)
    with folder_lock(tmp_path):
        assert owner(tmp_path)["pid"] == os.getpid()


def test_the_same_process_is_refused_too(tmp_path):
    with folder_lock(tmp_path):
        with pytest.raises(TLGError, match="in use"):
            with folder_lock(tmp_path):
                pass
    with folder_lock(tmp_path):
        pass
    assert owner(tmp_path) == {}


def test_other_names_and_other_folders_do_not_collide(tmp_path):
    with folder_lock(tmp_path / "a"), folder_lock(tmp_path / "b"), folder_lock(tmp_path / "a", name=".other"):
        assert is_locked(tmp_path / "a") and not is_locked(tmp_path)


def test_waiting_gets_the_folder_when_the_owner_ends(tmp_path):
    child = hold(tmp_path, seconds=0.5)
    start = time.monotonic()
    with folder_lock(tmp_path, wait=20):
        assert time.monotonic() - start < 15
    child.wait()
    child.stdout.close()


def test_an_exception_inside_frees_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with folder_lock(tmp_path):
            raise ZeroDivisionError
    assert not is_locked(tmp_path)


@pytest.mark.parametrize("left", [b"", b"\x00" * 40, b'{"pid": 12, "ho'])
def test_what_a_power_cut_leaves_in_the_lock_file_locks_nothing(tmp_path, left):
    (tmp_path / ".lock").write_bytes(left)
    assert owner(tmp_path) == {} and not is_locked(tmp_path)
    with folder_lock(tmp_path):
        assert owner(tmp_path)["pid"] == os.getpid()


def link(lock, precious):
    lock.symlink_to(precious)


def second_name(lock, precious):
    os.link(precious, lock)


def own_file(lock, precious):
    lock.write_text("my notes")


def pipe(lock, precious):
    os.mkfifo(lock)


@pytest.mark.parametrize("make", [link, second_name, own_file, pipe])
def test_what_is_no_lock_of_ours_is_refused_and_left_alone(tmp_path, make):
    precious = tmp_path / "precious"
    precious.write_text("my notes")
    lock = tmp_path / "run" / ".lock"
    lock.parent.mkdir()
    make(lock, precious)
    assert owner(lock.parent) == {} and not is_locked(lock.parent)
    with pytest.raises(TLGError, match="no lock file of ours") as caught:
        with folder_lock(lock.parent):
            pytest.fail("entered")
    assert caught.value.code == 5 and precious.read_text() == "my notes"
    assert make is not own_file or lock.read_text() == "my notes"


@pytest.mark.parametrize("pid", [0, -1, 1, True, "7", 10**30])
def test_a_note_that_names_no_process_is_not_signalled(tmp_path, pid):
    note = {"pid": pid, "begun": 0.0, "host": socket.gethostname()}
    (tmp_path / ".lock").write_text(json.dumps(note))
    with pytest.raises(TLGError, match="does not name the process"):
        living_owner(tmp_path)


def test_a_process_that_got_the_number_of_the_last_owner_is_not_signalled(tmp_path):
    child = hold(tmp_path)
    try:
        assert living_owner(tmp_path) == child.pid
        note = owner(tmp_path)
        (tmp_path / ".lock").write_text(json.dumps({**note, "begun": note["begun"] - 100}))
        with pytest.raises(TLGError, match="does not name the process"):
            living_owner(tmp_path)
        (tmp_path / ".lock").write_text(json.dumps({**note, "host": "elsewhere"}))
        with pytest.raises(TLGError, match="in use on elsewhere"):
            living_owner(tmp_path)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_only_one_of_many_contenders_enters_at_a_time(tmp_path):
    # Each contender reads, waits and writes a counter; without exclusion, updates are lost.
    script = (
        "import sys, time, pathlib\nfrom tlg_lib.machine.locks import folder_lock\n"
        "f = pathlib.Path(sys.argv[1]) / 'count'\n"
        "for _ in range(10):\n"
        "    with folder_lock(sys.argv[1], wait=60):\n"
        "        n = int(f.read_text())\n        time.sleep(0.002)\n        f.write_text(str(n + 1))\n"
    )
    (tmp_path / "count").write_text("0")
    children = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(3)]
    assert [child.wait(timeout=120) for child in children] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "30"


@pytest.mark.parametrize("name", ["file", "file/run", "x" * 300])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(TLGError, match="cannot write .* writable folder|is a file where a folder is needed") as caught:
        with folder_lock(tmp_path / name):
            pass
    assert caught.value.code == 5


WITHOUT_FCNTL = "import filelock, sys; sys.modules['fcntl'] = None" + HOLD


def test_where_the_system_has_no_flock_the_lock_is_filelocks(tmp_path, monkeypatch):
    """As on Windows: the second is refused and told who holds it, and kill -9 frees the folder."""
    import filelock  # noqa: F401  its own import of fcntl, before that is hidden

    monkeypatch.setitem(sys.modules, "fcntl", None)
    child = subprocess.Popen(
        [sys.executable, "-c", WITHOUT_FCNTL, str(tmp_path), "60"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "held\n"
        assert is_locked(tmp_path) and (tmp_path / ".lock.held").is_file()
        with pytest.raises(TLGError, match=f"in use by process {child.pid} on .* choose another folder"):
            with folder_lock(tmp_path):
                pytest.fail("entered a locked folder")
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert not is_locked(tmp_path)
    with folder_lock(tmp_path):
        assert is_locked(tmp_path) and owner(tmp_path)["pid"] == os.getpid()
    assert not is_locked(tmp_path)


def test_importing_the_library_needs_nothing_that_windows_lacks(tmp_path):
    """fcntl, pwd, grp, resource and termios are not there; the command line and predict import all the same."""
    code = "import sys\nfor name in ('fcntl', 'pwd', 'grp', 'resource', 'termios'): sys.modules[name] = None\n"
    code += "import tlg_lib.predict, tlg_lib.cli, tlg_lib.machine.locks, tlg_lib.runs.notebooks"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
