"""The doctor as a whole: it outlives what it asks, is done in time, and says it legibly."""

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as report
from benchmarks.doctor import __main__ as doctor
from benchmarks.doctor.apart import Apart, Broken, TooLong
from benchmarks.doctor.asking import Asking, Line
from benchmarks.doctor.checks import Check, Facts
from benchmarks.doctor.finding import bad, first_line, not_applicable, ok, warning
from benchmarks.doctor.next_flags import commands
from benchmarks.doctor.printing import Paper
from dali_pipes.flow import add_flow_argument
from model.training.options import parse

MIB = 2**20
SECRET = "hunter2-of-the-environment"


def looked_at(videos: Path | None, capfd: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """The checks of a run with --json, by name; with more time than people have."""
    with Apart() as apart:
        status = doctor.examine(Asking(apart, seconds=280), videos, None)
    printed, errors = capfd.readouterr()
    assert errors == ""
    told = json.loads(printed)
    assert set(told) == {
        "date", "command", "commit", "machine", "versions", "state", "verdict", "checks", "next",
    }  # fmt: skip
    assert told["machine"]["cores"] >= 1
    assert told["versions"]["torch"]
    assert SECRET not in printed
    states = {check["state"] for check in told["checks"]}
    assert status == ("bad" in states)
    for check in told["checks"]:
        assert bool(check["remedy"]) == (check["state"] in ("warning", "bad"))
    return {check["name"]: check for check in told["checks"]}


def test_a_run_tells_what_works_here(
    few_samples: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    shutil.copytree(few_samples, tmp_path, dirs_exist_ok=True)
    (tmp_path / "damaged.mp4").write_bytes(bytes(1000))
    checks = looked_at(tmp_path, capfd)
    for name in ("FFmpeg codecs", "labels", "TV-L1", "loader", "training", "DALI", "torch"):
        assert checks[name]["state"] == "ok", checks[name]
    batch = checks["videos: batch"]
    assert batch["state"] == "warning"
    assert "1 skipped" in batch["found"]
    assert "damaged.mp4" in batch["found"]


@pytest.mark.gpu
def test_a_run_tells_what_works_on_this_gpu(capfd: pytest.CaptureFixture[str]) -> None:
    checks = looked_at(None, capfd)
    for name in ("driver", "GPU", "NVRTC", "nvJPEG", "labels", "TV-L1", "loader", "training"):
        assert checks[name]["state"] == "ok", checks[name]
    assert not [check for check in checks.values() if check["state"] == "not applicable"]


@pytest.mark.parametrize(
    ("name", "words"), [("none", "no such folder"), ("", "no video files"), ("f", "is no folder")]
)
def test_a_folder_without_videos_is_one_line(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    command = [sys.executable, "-m", "benchmarks.doctor", "--videos", str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"doctor: {tmp_path / name}")
    assert words in done.stderr


# ---- apart ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("os:abort", (), "the process ended by SIGABRT"),
        ("faulthandler:_sigsegv", (), "the process ended by SIGSEGV"),
        ("os:_exit", (3,), "the process ended with exit code 3"),
        ("math:sqrt", (-1,), "ValueError: "),
        ("sys:exit", ("enough",), "SystemExit: enough"),
        ("no_such_module:f", (), "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_what_goes_wrong_apart_is_told_and_the_next_goes_on(
    name: str, arguments: tuple[Any, ...], words: str
) -> None:
    with Apart() as apart:
        with pytest.raises(Broken, match=f"^{words}"):
            apart.call(name, *arguments, seconds=30)
        assert apart.call("math:sqrt", 4, seconds=30) == 2


def test_the_last_word_of_a_crash_is_told_and_nothing_else_is_printed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with Apart() as apart:
        apart.call("builtins:print", "to nobody", seconds=30)
        with pytest.raises(Broken, match=r"exit code 7; it said: to nobody$"):
            apart.call("os:_exit", 7, seconds=30)
    assert capfd.readouterr() == ("", "")


def test_what_hangs_is_ended() -> None:
    with Apart() as apart:
        number = apart.call("os:getpid", seconds=30)
        with pytest.raises(TooLong, match="was not done after 0 s"):
            apart.call("time:sleep", 60, seconds=0.2)
        assert not Path(f"/proc/{number}").exists()
        assert apart.call("os:getpid", seconds=30) != number


def test_nothing_is_left_behind() -> None:
    with Apart() as apart:
        number = apart.call("os:getpid", seconds=30)
    assert not Path(f"/proc/{number}").exists()


def test_of_dali_what_it_encountered_is_told() -> None:
    text = "Critical error:\nin operator X\n\nencountered:\n\nFailed to create\nC++ context\n"
    assert first_line(RuntimeError(text)) == "RuntimeError: Failed to create"
    assert first_line(KeyError()) == "KeyError"


# ---- asking -----------------------------------------------------------------------------------


class Telling(Apart):
    """Answers at once, from a table; what is not in it breaks."""

    def __init__(self, **answers: Any) -> None:
        self.answers, self.given = answers, []  # type: ignore[var-annotated]

    def call(self, name: str, *arguments: Any, seconds: float) -> Any:
        self.given.append((name, arguments, seconds))
        key = name.rpartition(":")[2]
        if key not in self.answers:
            raise Broken("the process ended by SIGSEGV")
        return self.answers[key]


def test_a_crash_is_a_bad_line_and_others_go_on() -> None:
    asking = Asking(Telling(memory=ok("8 GiB")))
    crash = asking.line(Check("labels", "results:labels"))
    assert crash.finding == bad("the process ended by SIGSEGV", crash.finding.remedy)
    assert "report it" in crash.finding.remedy
    assert asking.line(Check("memory", "machine:memory")).finding == ok("8 GiB")
    absent = asking.line(Check("GPU", "software:gpu", applies=False))
    assert absent.finding.state == "not applicable"


def test_who_has_no_environment_is_told_to_make_one() -> None:
    with Apart() as apart:
        found = Asking(apart).line(Check("labels", "no_such_module:labels")).finding
    assert (found.state, found.remedy.split(",")[0]) == ("bad", "make venv")


def test_nothing_is_said_to_who_reads_no_further() -> None:
    code = (
        "from benchmarks.doctor import __main__ as doctor\n"
        "doctor.examine = lambda *_: print('a line', flush=True)\n"
        "raise SystemExit(doctor.main([]))"
    )
    read, written = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=written, stderr=subprocess.PIPE, check=False
    )
    os.close(written)
    assert (done.returncode, done.stderr) == (1, b"")


def test_time_is_over_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    telling = Telling(memory=ok("8 GiB"))
    asking = Asking(telling, seconds=50)
    check = Check("memory", "machine:memory", seconds=30)
    asking.line(check)
    now += 40
    asking.line(check)
    assert [seconds for *_, seconds in telling.given] == [30, 10]
    now += 11
    late = asking.line(check).finding
    assert (late.state, late.found) == ("bad", "not looked at: 50 s were over")
    assert len(telling.given) == 2


def printed(telling: Apart) -> tuple[int, str]:
    stream = io.StringIO()
    status = doctor.examine(Asking(telling), None, Paper(stream, False, False, None))
    return status, stream.getvalue()


def test_what_cannot_be_found_out_is_bad_and_the_rest_is_asked() -> None:
    """torch crashes when it is imported, and so does all that needs it."""
    status, text = printed(Telling(driver=ok("no NVIDIA GPU: CPU default"), python=ok("3.11")))
    assert status == 1
    assert "bad     torch   " in text
    assert "SIGSEGV" in text
    assert "ok      python  " in text
    assert "bad     labels" in text
    assert "bad     verdict" in text


# Functions that give findings on a CPU.
ALL = (
    *("driver", "python", "packages", "torch_fits", "dali_fits", "cores", "threads", "memory"),
    *("shared_memory", "open_files", "cache", "output", "compiler", "on_cpu"),
    *("labels", "tvl1", "loader", "precision", "training"),
)


def sound(**others: Any) -> Telling:
    facts = {"nvidia": None, "torch": None, "installed": {}, "limits": None, "batch_bytes": 1}
    return Telling(**dict.fromkeys(ALL, ok("fine")) | facts | others)


@pytest.mark.parametrize(
    ("others", "status", "verdict"),
    [
        ({}, 0, "ok      verdict                training works here as documented"),
        ({"compiler": warning("no g++", "get it")}, 0, "warning verdict"),
        ({"labels": bad("others", "report"), "cores": warning("few", "-")}, 1, "bad     verdict"),
    ],
)
def test_the_verdict_is_that_of_the_worst_line(
    others: dict[str, Any], status: int, verdict: str
) -> None:
    told = printed(sound(**others))
    assert told[0] == status
    assert f"\n{verdict}" in told[1]
    lines = told[1].splitlines()
    assert lines[-2].startswith("tune  python -m benchmarks --tune --videos DIR")
    assert lines[-1].startswith("train python train.py --videos DIR")
    assert sum("not looked at: CuPy, GPU, NVRTC, libnvcuvid" in line for line in lines) == 1


def test_an_interrupt_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> Facts:
        raise KeyboardInterrupt

    monkeypatch.setattr(Asking, "facts", interrupted)
    assert doctor.main([]) == 130
    assert capfd.readouterr().err == "doctor: interrupted\n"


# ---- printing ---------------------------------------------------------------------------------


def paper(columns: int | None, marks: bool = True, colours: bool = False) -> Paper:
    return Paper(io.StringIO(), marks, colours, columns)


def lines(of: Paper) -> list[str]:
    assert isinstance(of.stream, io.StringIO)
    return of.stream.getvalue().splitlines()


def test_names_are_aligned_and_remedies_stand_below() -> None:
    plain = paper(None, marks=False)
    plain.line("ok", "cores", 8, "2")
    plain.line("bad", "/dev/shm", 8, "4 MiB free", "docker run --shm-size=1g")
    assert lines(plain) == [
        "ok      cores     2",
        "bad     /dev/shm  4 MiB free",
        "                  -> docker run --shm-size=1g",
    ]


def test_a_narrow_terminal_breaks_lines_below_their_beginning() -> None:
    narrow = paper(44)
    narrow.line(
        "warning", "codecs", 8, "h264, hevc, mpeg4, vp8 and vp9 are right", "a newer driver"
    )
    assert lines(narrow) == [
        "! codecs    h264, hevc, mpeg4, vp8 and vp9",
        "            are right",
        "            -> a newer driver",
    ]
    narrower = paper(20)
    narrower.line("ok", "a long name", 20, "found")  # no room to break in
    assert lines(narrower) == ["✓ a long name           found"]


def test_a_mark_alone_is_coloured() -> None:
    coloured = paper(80, colours=True)
    coloured.line("bad", "labels", 6, "others")
    assert lines(coloured) == ["\033[31m✗\033[0m labels  others"]


def test_file_names_are_text() -> None:
    plain = paper(None)
    plain.line("bad", "videos", 6, "a\033[2Jb\nc.mp4")
    assert lines(plain) == ["✗ videos  a\\x1b[2Jb c.mp4"]


def test_a_terminal_gets_marks_and_no_colour_if_none_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = os.openpty()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        assert (Paper.of(terminal).marks, Paper.of(terminal).colours) == (True, True)
        monkeypatch.setenv("NO_COLOR", "1")
        assert (Paper.of(terminal).marks, Paper.of(terminal).colours) == (True, False)
    os.close(ours)
    piped = Paper.of(io.StringIO())
    assert (piped.marks, piped.colours, piped.columns) == (False, False, None)


# ---- what to try next -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "cores", "free_mib", "expected"),
    [
        (0, 2, 1000, {"num_workers": 2, "bs": 4, "width": 0.25}),
        (0, 2, 24, {"num_workers": 2, "bs": 3, "width": 0.25}),
        (0, 2, 4, {"num_workers": 0, "bs": 4, "width": 0.25}),  # no room for one clip
        (1, 16, 1000, {"num_workers": 16, "bs": 30, "width": 1.0, "decode_threads": 8}),
        (8, 16, 100, {"num_workers": 2, "bs": 12, "width": 1.0, "decode_threads": 8}),
    ],
)
def test_the_flags_are_those_of_the_commands(
    gpus: int, cores: int, free_mib: int, expected: dict[str, Any]
) -> None:
    tune, train = commands("a b", gpus, cores, free_mib * MIB, 8 * MIB)
    module, *flags = shlex.split(tune.removeprefix("python -m "))
    assert module == "benchmarks"
    told = report.parse(flags)
    assert (told.tune, told.videos) == (True, Path("a b"))
    program, _, flags_of_train = train.partition(" train.py ")
    assert program == ("torchrun --nproc-per-node=8" if gpus == 8 else "python")
    args = parse(add_flow_argument, shlex.split(flags_of_train))
    assert args.videos == "a b"
    assert {name: getattr(args, name) for name in expected} == expected


def test_a_row_of_the_report_is_plain() -> None:
    row = Line("GPU", not_applicable("no NVIDIA GPU"), 0.1234).row()
    assert json.loads(json.dumps(row)) == {
        "name": "GPU", "state": "not applicable", "found": "no NVIDIA GPU", "remedy": "",
        "seconds": 0.12,
    }  # fmt: skip
