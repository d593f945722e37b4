"""Each step is a process: what a person sees of it is its log and its exit code."""

import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import components

ROOT = Path(components.__file__).parents[1]


def run(body: str) -> subprocess.CompletedProcess:
    code = "import logging, os, sys\nfrom components.core.step import StepError, progress, step\nwith step('ingest'):\n"
    return subprocess.run(
        [sys.executable, "-c", code + textwrap.indent(textwrap.dedent(body), "    ")],
        capture_output=True, text=True, timeout=30, cwd=ROOT,
    )  # fmt: skip


def test_a_step_that_works_exits_with_zero_and_logs_plain_lines():
    done = run("logging.info('%d scans', 3)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 scans\n", "")


def test_what_the_user_can_mend_is_the_last_line_without_a_stack():
    done = run("logging.info('3 scans')\nraise StepError('no scans in s3://data. Add some.')")
    assert done.returncode == 1
    assert done.stdout.splitlines() == ["3 scans", "ERROR ingest: no scans in s3://data. Add some."]
    assert done.stderr == ""


def test_what_it_was_raised_from_is_not_shown_either():
    done = run("try:\n    1 / 0\nexcept Exception as e:\n    raise StepError('mend this') from e")
    assert "ZeroDivisionError" not in done.stdout + done.stderr and done.stdout.endswith("mend this\n")


def test_a_fault_of_ours_keeps_its_stack_and_ends_with_the_reason():
    done = run("def deep_inside():\n    return {}['voxels']\ndeep_inside()")
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert "Traceback (most recent call last):" in lines and any("in deep_inside" in line for line in lines)
    assert lines[-1].startswith("ERROR ingest: unexpected KeyError: 'voxels'.")


@pytest.mark.parametrize(
    "body",
    [
        "bytearray(2**62)",
        "import errno; raise OSError(errno.ENOMEM, 'Cannot allocate memory')",
        "raise ImportError('cv2.so: failed to map segment from shared object')",
        "raise RuntimeError('MPS backend out of memory (MPS allocated: 5.4 GiB)')",
    ],
)
def test_running_out_of_memory_says_what_to_do(body):
    done = run(body)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("ERROR ingest: out of memory. Give the step more memory")
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            "OSError(errno.ENOSPC, 'No space left on device', '/data/x')",
            "the disk is full (/data/x). Free space, then run",
        ),
        (
            "OSError(errno.EROFS, 'Read-only file system', '/data/x')",
            "Read-only file system (/data/x). Get the right to read and write there",
        ),
        ("OSError(errno.EACCES, 'Permission denied')", "Permission denied. Get the right to read and write there"),
    ],
)
def test_a_disk_that_is_full_or_not_ours_says_what_to_do(fault, said):
    wrapped = f"try:\n    raise {fault}\nexcept OSError as error:\n    raise RuntimeError('not written') from error"
    for body in (f"raise {fault}", wrapped):
        done = run(f"import errno\n{body}")
        assert done.returncode == 1 and "Traceback" not in done.stdout
        assert done.stdout.splitlines()[-1].startswith(f"ERROR ingest: {said}")


def test_libraries_do_not_chat_in_the_log():
    assert run("logging.getLogger('botocore.credentials').info('Found credentials')").stdout == ""


@pytest.mark.parametrize("body", [
    "logging.info('MLflow at https://me:hunter2@mlflow.example.org/api is slow')",
    "logging.warning('%s', ValueError('http://me:hunter2@127.0.0.1:5000'))",
    "logging.getLogger('mlflow').error('https://me:hunter2@h/')",
    "try:\n    1 / 0\nexcept Exception:\n    logging.exception('at //me:hunter2@h')",
    "raise StepError('no MLflow at https://me:hunter2@h')",
    "raise ValueError('API request to https://me:hunter2@h/api failed')",
])  # fmt: skip
def test_no_login_that_a_url_holds_is_in_a_log(body):
    done = run(body)
    assert "hunter2" not in done.stdout + done.stderr and "***@" in done.stdout


@pytest.mark.parametrize(
    "body",
    ["print(NAME)", "print(NAME, file=sys.stderr)", "sys.stdout.write(NAME + chr(10))", "sys.stdout.writelines([NAME])",
     "raise ValueError(NAME)", "import warnings; warnings.warn(NAME)", "sys.exit(NAME)", "logging.warning(NAME)"],
)  # fmt: skip
def test_whatever_is_printed_steers_no_terminal_and_shows_no_login(body):
    done = run(rf"NAME = '\x1b[2J\r\x07\u202e http://me:secret@host/'; {body}")
    said = done.stdout + done.stderr
    assert "\\x1b[2J\\r\\x07\\u202e" in said and not set("\x1b\r\x07\u202e") & set(said)
    assert "secret" not in said


def test_a_name_in_a_log_steers_no_terminal_and_need_not_be_text():
    done = run(r"logging.info('refused %s', '\x1b[2J\r\u202e\udcffสมชาย')")
    assert (done.stdout, done.stderr) == ("refused \\x1b[2J\\r\\u202e\\udcffสมชาย\n", "")


@pytest.mark.parametrize(("items", "most"), [(1000, 12), (7, 8)])
def test_progress_in_a_log_is_about_ten_lines_and_ends_with_all(items, most):
    lines = run(f"for _ in progress(range({items}), what='downloaded'): pass").stdout.splitlines()
    assert min(items, 10) <= len(lines) <= most and lines[-1] == f"downloaded {items}/{items}"


def test_progress_hands_on_every_item_in_order():
    assert run("print(list(progress(iter('abc'), total=3)))").stdout.splitlines()[-1] == "['a', 'b', 'c']"


def test_a_step_ends_with_the_run_that_started_it():
    watched = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    step = subprocess.Popen(
        [sys.executable, "-c", "import time\nfrom components.core.step import step\nwith step('x'):\n"
         "    print('started', flush=True); time.sleep(60)"],
        env={"RUN_PID": str(watched.pid)}, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        assert step.stdout.readline() == b"started\n"
        assert step.poll() is None
        watched.kill()
        watched.wait()
        begun = time.monotonic()
        assert step.wait(timeout=10) != 0 and time.monotonic() - begun < 5
    finally:
        for process in (watched, step):
            process.kill()
            process.wait()


def test_a_request_that_urllib3_sends_again_is_told_in_a_sentence():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = run(f"""
        import urllib3
        urllib3.PoolManager().request("GET", "http://127.0.0.1:{port}/", retries=urllib3.Retry(2, backoff_factor=0))
    """)
    again = [line for line in done.stdout.splitlines() if "trying again" in line]
    assert len(again) == 2 and "Retrying (Retry" not in done.stdout
    for line, left in zip(again, (1, 0), strict=True):
        assert line.startswith(f"127.0.0.1:{port} does not answer (") and line.endswith(f"tries left: {left}")


def test_a_connection_that_broke_names_what_was_asked_for():
    done = run("""
        import urllib3
        broken = urllib3.exceptions.ProtocolError("Connection aborted.", ConnectionResetError(104, "reset by peer"))
        said = "Retrying (%r) after connection broken by '%r': %s"
        logging.getLogger("urllib3.connectionpool").warning(said, urllib3.Retry(3), broken, "/api/2.0/runs/get")
        logging.warning("Retrying (%r) is a message of ours", 3)
    """)
    first, second = done.stdout.splitlines()
    assert first.startswith("the server of /api/2.0/runs/get does not answer (") and "reset by peer" in first
    assert second == "Retrying (3) is a message of ours"
