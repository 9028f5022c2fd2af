"""What the README tells people to type exists, and its Python runs as printed."""

import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pytest

from dali_pipes.prepare.samples import write_sample
from kernels.labels.schema import NAMES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def inline_code(text: str) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", FENCED.sub("", text))]


def commands(path: Path) -> set[str]:
    """What a document tells to type, without comments, environment and first words of a chain."""
    text = path.read_text().replace("\\\n", " ")
    lines = [
        line
        for language, block in FENCED.findall(text)
        for line in block.splitlines()
        if not language
    ]
    found = (re.split(r" #|&&", line)[0].strip() for line in [*lines, *inline_code(text)])
    return {line for line in found if line.startswith(("make ", "python ", "torchrun "))}


DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = sorted(set[str]().union(*map(commands, DOCUMENTS)))


@cache
def help_of(module: str, *command: str) -> str:
    """What `python -m module command --help` prints."""
    package = (ROOT / module.replace(".", "/")).is_dir()
    main = import_module(module + ".__main__" * package).main
    with redirect_stdout(StringIO()) as printed, pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    return printed.getvalue()


def flags(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))


@pytest.mark.parametrize("command", COMMANDS)
def test_command_exists(command: str) -> None:
    words = shlex.split(command.replace(" TASK ", " retrieval "))  # of model.evaluate: any
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
        return
    start = next(i for i, word in enumerate(words) if word in ("-m", "train.py"))
    module = words[start + 1] if words[start] == "-m" else "train"
    options = words[start + 1 + (words[start] == "-m") :]
    # A command of the module's own, `prepare frames`; placeholders are in capitals.
    command_word = options[:1] if options and re.fullmatch(r"[a-z][a-z-]*", options[0]) else []
    assert find_spec(module)
    named = flags(" ".join(options)) - {"--help"}
    assert not named or named <= flags(help_of(module, *command_word))


def test_flags_named_in_the_text_are_those_of_train() -> None:
    named = {flag for code in inline_code(README) if code.startswith("--") for flag in flags(code)}
    assert len(named) > 5
    assert named <= flags(help_of("train"))


def test_table_of_labels_is_the_schema() -> None:
    table = re.search(r"<!-- labels -->(.*)<!-- /labels -->", README, re.DOTALL)
    assert table is not None
    assert sorted(re.findall(r"`(\w+)`", table[1])) == sorted(NAMES)


def test_links_lead_somewhere() -> None:
    for path in DOCUMENTS:
        targets = re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text())
        assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder elsewhere, with a few samples in it."""
    for motion in ("up", "left"):
        for number in range(4):
            path = tmp_path / "samples" / motion / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_sample(path, motion, number, "train", 0)
    return tmp_path


def test_python_runs_as_printed(folder: Path) -> None:
    snippets = [block for language, block in FENCED.findall(README) if language == "python"]
    assert snippets
    for i, snippet in enumerate(snippets):
        script = folder / f"snippet{i}.py"
        indented = "".join(f"    {line}\n" for line in snippet.splitlines())
        script.write_text(f'if __name__ == "__main__":\n{indented}')
        done = subprocess.run(
            [sys.executable, script],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        assert "torch.Size([8, 3, 16, 112, 112]) torch.Size([8, 27])" in done.stdout


def test_a_training_script_runs_from_a_folder_of_its_own(folder: Path) -> None:
    """The README's lines and its command, as they stand, with a network and labels beside them."""
    (snippet,) = (block for language, block in FENCED.findall(README) if language == "python")
    (command,) = re.findall(r"^(PYTHONPATH=CLONE python my_training\.py)$", README, re.MULTILINE)
    (folder / "my_training.py").write_text(
        snippet + "from kernels.labels import clip_labels\n"
        "from model import BACKBONES\n"
        "assert clip_labels(batch.frames, batch.flow).equal(batch.labels)\n"
        "BACKBONES['r3d'](width=0.05)(batch.frames).sum().backward()\n"
        "print(len(loader._feed._running._work.workers), 'decoding processes')\n"
    )
    words = {"CLONE": shlex.quote(str(ROOT)), "python": shlex.quote(sys.executable)}
    done = subprocess.run(
        re.sub("CLONE|python(?= )", lambda word: words[word[0]], command),
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr
    shapes = "torch.Size([8, 3, 16, 112, 112]) torch.Size([8, 27])"
    assert done.stdout.startswith(shapes)
    assert done.stdout.count(shapes) == 1  # no process ran the script again
    assert "2 decoding processes" in done.stdout
