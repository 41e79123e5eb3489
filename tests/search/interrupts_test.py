"""Interrupts: SIGTERM ends the process whatever catches, and a hint is printed."""

import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from tflottery.search import interrupts

ROOT = pathlib.Path(__file__).absolute().parents[2]
SAVED = (
    "Every finished epoch is saved in 'runs/a'. To resume, repeat the call with this "
    "`run_dir`.\n"
)

# A host that catches whatever is raised, and goes on.
STUBBORN = """
import os, signal, sys, time
from tflottery.search import interrupts

def wait():
    print("searching", flush=True)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            print("caught", flush=True)

with interrupts.explained("runs/a"):
    {work}
"""


def started(work, *before):
    process = subprocess.Popen(
        [*before, sys.executable, "-c", STUBBORN.format(work=work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "searching\n"
    return process


def test_sigterm_ends_a_process_that_catches_everything():
    process = started("wait()")
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert out == ""
    assert err == f"\nThe search was stopped by SIGTERM. {SAVED}"


@pytest.mark.skipif(sys.platform != "linux", reason="needs coreutils")
def test_timeout_ends_a_search_with_its_usual_status():
    process = started("wait()", "timeout", "2")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 124
    assert err.endswith(SAVED)


def test_a_signal_in_a_destructor_is_not_lost():
    process = started("""class Ends:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
    print("searching", flush=True)
    Ends()
    wait()""")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs os.fork")
def test_a_worker_process_that_is_ended_says_nothing():
    process = started("""child = os.fork()
    if not child:
        wait()
    time.sleep(0.5)
    os.kill(child, signal.SIGTERM)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, flush=True)""")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "-15\n", "")


@pytest.fixture
def _default():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_default")
def test_the_default_handler_is_there_again_after_the_search():
    with interrupts.explained(None):
        assert callable(signal.getsignal(signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.usefixtures("_default")
def test_a_handler_that_somebody_else_has_set_stays():
    def mine(number, frame):
        pass

    signal.signal(signal.SIGTERM, mine)
    with interrupts.explained(None):
        assert signal.getsignal(signal.SIGTERM) is mine
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with interrupts.explained(None):
        signal.signal(signal.SIGTERM, mine)
    assert signal.getsignal(signal.SIGTERM) is mine


@pytest.mark.usefixtures("_default")
def test_a_search_in_another_thread_sets_no_handler():
    seen = []

    def search():
        with interrupts.explained(None):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=search)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


@pytest.mark.parametrize(
    ("folder", "hint"),
    [
        ("runs/a", SAVED),
        (None, "Nothing was saved; with a `run_dir` the next search could resume.\n"),
    ],
)
def test_ctrl_c_prints_the_hint_and_goes_on_up(capsys, folder, hint):
    with pytest.raises(KeyboardInterrupt), interrupts.explained(folder):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == f"\nThe search was interrupted. {hint}"


def test_other_exceptions_pass_in_silence(capsys):
    with pytest.raises(SystemExit), interrupts.explained("runs/a"):
        raise SystemExit(143)
    assert capsys.readouterr().err == ""
