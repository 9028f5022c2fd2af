"""Checkpoints: rotation, damage, interrupted writes, foreign content."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from model.training import checkpoint
from model.training.checkpoint import NoCheckpoint


def state(step: int) -> dict:
    return {
        "step": step,
        "net": {"weight": torch.full((1000,), float(step))},
        "args": {"a": (1, 2)},
    }


def write(folder: Path, steps: range, keep: int = 3) -> None:
    for step in steps:
        checkpoint.save(folder, state(step), step, keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_few_are_kept_in_the_order_of_steps(tmp_path: Path) -> None:
    write(tmp_path / "run", range(8, 13))  # crosses a power of ten
    assert names(tmp_path / "run") == [f"step_{n:08d}.pt" for n in (10, 11, 12)]
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found[1]["step"] == 12
    assert torch.equal(found[1]["net"]["weight"], torch.full((1000,), 12.0))


def test_the_newest_run_wins(tmp_path: Path) -> None:
    write(tmp_path / "long", range(100, 101))
    write(tmp_path / "recent", range(5, 6))
    os.utime(tmp_path / "long" / "step_00000100.pt", (1, 1))
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found[0].parent.name == "recent"


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "text"])
def test_damage_is_found_and_the_one_before_taken(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "run", range(1, 4))
    newest = tmp_path / "run" / "step_00000003.pt"
    content = bytearray(newest.read_bytes())
    where = content.index(torch.full((1000,), 3.0).numpy().tobytes()[:16])
    content[where + 2000] ^= 1  # inside a weight: torch.load alone would not notice
    damaged = {"bit": bytes(content), "cut": content[:-100], "empty": b"", "text": b"hello" * 99}
    newest.write_bytes(damaged[damage])
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found[1]["step"] == 2
    assert f"warning: {newest}" in capsys.readouterr().out
    with pytest.raises(NoCheckpoint, match="step_00000003"):
        checkpoint.newest(newest)


def test_nothing_readable_is_an_error_and_nothing_at_all_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "missing") is None
    write(tmp_path / "run", range(1, 3))
    for path in (tmp_path / "run").iterdir():
        path.write_bytes(b"")
    with pytest.raises(NoCheckpoint, match=r"none of its checkpoints.*without --resume"):
        checkpoint.newest(tmp_path)


def test_an_interrupted_write_leaves_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    write(folder, range(1, 2))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(folder, state(2), 2, keep=1)
    monkeypatch.undo()
    assert names(folder) == ["step_00000001.pt"]
    (folder / "step_00000002.partial").write_bytes(b"half")  # as a crash leaves it
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found[1]["step"] == 1
    write(folder, range(3, 4), keep=1)
    assert names(folder) == ["step_00000003.pt"]


def test_foreign_pickles_do_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "pwned"),)

    path = tmp_path / "step_00000001.pt"
    torch.save({"step": 1, "evil": Evil()}, path)
    with pytest.raises(NoCheckpoint):
        checkpoint.load(path)
    path.write_bytes(pickle.dumps({"step": 1, "evil": Evil()}))
    with pytest.raises(NoCheckpoint):
        checkpoint.load(path)
    assert not (tmp_path / "pwned").exists()
    torch.save([1, 2], path)
    with pytest.raises(NoCheckpoint, match=r"no checkpoint of train\.py"):
        checkpoint.load(path)
