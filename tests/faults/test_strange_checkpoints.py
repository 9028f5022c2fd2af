"""Checkpoints from strangers: one line that names the field, exit code 2, nothing outside."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import train
from dali_pipes.sources import Synthetic
from model import evaluate
from model.networks.published import from_state_dict
from model.training import checkpoint
from model.training.checkpoint import NoCheckpoint
from tests.model.networks.test_zoo import published_weights

SMALL = "--width 0.05 --clip_len 8 --size 32 --resize 36x48 --num_workers 0 --precision float32"
CONV = "backbone.conv1.0.weight"


@pytest.fixture(autouse=True)
def synthetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "open_source", lambda *_: Synthetic.make(6, 16, (48, 64)))
    monkeypatch.setattr(train, "picture", lambda *_: np.zeros((8, 8, 3), np.uint8))


def run(place: Path, flags: str) -> int:
    folders = f"--log_dir {place / 'logs'} --model_save_dir {place / 'saved'}"
    return train.main(f"--videos synthetic {SMALL} {folders} {flags}".split())


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after one step."""
    place = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        synthetic.__wrapped__(patch)  # type: ignore[attr-defined]
        assert run(place, "--steps 1") == 0
    (path,) = place.rglob("step_*.pt")
    return path


def changed(path: Path, field: str, value: Any) -> dict:
    """A checkpoint whose "a/b/c" is set to a value, or to what a function makes of it."""
    whole = state = checkpoint.load(path)
    *above, last = (int(key) if key.isdigit() else key for key in field.split("/"))
    for key in above:
        state = state[key]
    if value is MISSING:
        del state[last]
    else:
        state[last] = value(state[last]) if callable(value) else value
    return whole


MISSING = object()
STRANGE: list[tuple[str, Any, str]] = [  # field, value, words of the line
    ("step", MISSING, "no checkpoint of train.py"),
    ("step", -1, "step is -1"),
    ("step", 1.5, "step is 1.5"),
    ("args", MISSING, "args is missing"),
    ("args", None, "args is missing"),
    ("loader", None, "loader is missing"),
    ("loader/consumed", MISSING, "consumed None"),
    ("loader/consumed", 10**25, "consumed 10000"),
    ("loader/consumed", -3, "consumed -3"),
    ("loader/consumed", True, "consumed True"),
    ("loader/stream", [], "of no stream"),
    ("net", MISSING, "net is missing"),
    ("net", 7, "net does not fit"),
    (f"net/{CONV}", MISSING, CONV),
    ("net/backbone.more", torch.zeros(1), "backbone.more"),
    (f"net/{CONV}", lambda w: w[:, :2], CONV),
    (f"net/{CONV}", lambda w: w * float("nan"), f"net.{CONV} has numbers that are not finite"),
    (f"net/{CONV}", lambda w: torch.zeros(1).expand(w.shape), "declares more numbers than it has"),
    (f"net/{CONV}", lambda w: torch.zeros(1).expand(10**6, 10**6), "declares more numbers"),
    ("net/backbone._extra_state", {"order": "GBR", "offset": 0.0, "scale": 1.0}, "no input"),
    ("net/backbone._extra_state", {"order": "RGB", "offset": 0.0, "scale": 0.0}, "no input"),
    ("optimizer", None, "optimizer does not fit"),
    ("optimizer/param_groups", [], "optimizer does not fit"),
    ("optimizer/param_groups/0/lr", float("nan"), "lr is nan"),
    ("optimizer/param_groups/0/lr", "fast", "lr is 'fast'"),
    ("optimizer/param_groups/0/lr", MISSING, "optimizer does not fit"),
    ("optimizer/param_groups/1/params", lambda p: p[::-1], "of other weights"),
    ("optimizer/state/0/momentum_buffer", lambda m: m[:1], "momentum_buffer 0 has another shape"),
    ("optimizer/state/0/momentum_buffer", lambda m: m / 0, "not finite"),
    ("optimizer/state/0/momentum_buffer", MISSING, "optimizer does not fit"),
    ("optimizer/state/0/momentum_buffer", 0.5, "optimizer does not fit"),
    ("optimizer/state", lambda s: {999: s[0]}, "optimizer does not fit"),
    ("scheduler", MISSING, "scheduler is missing"),
    ("scheduler/last_epoch", MISSING, "scheduler does not fit"),
    ("scheduler/last_epoch", "late", "last_epoch is 'late'"),
    ("scheduler/base_lrs", [0.1], "base_lrs is [0.1]"),
    ("scaler", [], "scaler does not fit"),
    ("generators", MISSING, "generators is missing"),
    ("generators", 5, "generators does not fit"),
    ("generators", [{}], "generators does not fit"),
    ("generators", [{"cpu": torch.zeros(3, dtype=torch.uint8)}], "generators does not fit"),
]


@pytest.mark.parametrize(("field", "value", "words"), STRANGE)
def test_a_field_that_is_strange_is_named(
    field: str,
    value: Any,
    words: str,
    sound: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "strange.pt"
    torch.save(changed(sound, field, value), path)
    assert run(tmp_path, f"--steps 2 --resume {path}") == 2
    error = capsys.readouterr().err
    assert words in error
    assert str(path) in error or "loader's state" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("step_*.pt"))


@pytest.mark.parametrize("where", ["../../escaped", "ABSOLUTE", "a/b", "", "x" * 300, 5, None])
def test_a_checkpoint_decides_no_path(where: Any, sound: Path, tmp_path: Path) -> None:
    place = tmp_path / "inside" / "place"
    place.mkdir(parents=True)
    path = tmp_path / "inside" / "strange.pt"
    state = checkpoint.load(sound)
    torch.save(state | {"run": str(tmp_path / "abs") if where == "ABSOLUTE" else where}, path)
    assert run(place, f"--steps 2 --resume {path}") == 0
    assert {entry.name for entry in tmp_path.iterdir()} == {"inside"}
    assert {entry.name for entry in path.parent.iterdir()} == {"place", "strange.pt"}
    (written,) = (place / "saved").rglob("step_*.pt")
    assert written.parent.parent == place / "saved"
    assert written.parent.name.startswith("c3d_")


def test_a_field_that_means_nothing_changes_nothing(sound: Path, tmp_path: Path) -> None:
    state = checkpoint.load(sound)
    state["scheduler"] |= {"step": 5, "get_lr": None}  # names of methods
    state["optimizer"]["param_groups"][0]["of another torch"] = True
    path = tmp_path / "strange.pt"
    torch.save(state, path)
    assert run(tmp_path, f"--steps 2 --resume {path}") == 0


def test_a_run_goes_on_in_its_own_folder(sound: Path, tmp_path: Path) -> None:
    own = tmp_path / "saved" / "mine" / sound.name
    own.parent.mkdir(parents=True)
    own.write_bytes(sound.read_bytes())
    assert run(tmp_path, "--steps 2 --resume") == 0
    assert len(list(own.parent.glob("step_*.pt"))) == 2
    assert [entry.name for entry in (tmp_path / "saved").iterdir()] == ["mine"]
    assert [entry.name for entry in (tmp_path / "logs").iterdir()] == ["mine"]


def compressed(path: Path) -> None:
    """Write the archive again, compressed."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def test_a_compressed_bomb_is_refused_by_its_declared_size(tmp_path: Path) -> None:
    path = tmp_path / "step_00000001.pt"
    torch.save({"step": 1, "net": {"weight": torch.zeros(2**24)}}, path)  # 64 MiB
    compressed(path)
    assert path.stat().st_size < 2**20
    with pytest.raises(NoCheckpoint, match="declares more content than it has bytes"):
        checkpoint.load(path)


EVALUATED: list[tuple[str, Any, str]] = [
    ("args", None, "args.model is 'missing'"),
    ("args/model", "c4d", "args.model is 'c4d'"),
    ("args/model", [], "args.model is []"),
    ("args/width", 10.0**9, "net does not fit"),
    ("args/width", float("inf"), "args.width is inf"),
    ("args/width", MISSING, "args.width is 'missing'"),
    ("args/clip_len", 10**9, "args.clip_len is 1000000000"),
    ("args/size", "big", "args.size is 'big'"),
    ("args/resize", [5], "args.resize is [5]"),
    ("args/resize", [10**6, 10**6], "args.resize is"),
    ("net", [], "net does not fit"),
    (f"net/{CONV}", lambda w: w[:1], CONV.removeprefix("backbone.")),
    (f"net/{CONV}", lambda w: w * float("inf"), "not finite"),
]


@pytest.mark.parametrize(("field", "value", "words"), EVALUATED)
def test_a_network_to_be_judged_may_be_strange_too(
    field: str,
    value: Any,
    words: str,
    sound: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert_refused(changed(sound, field, value), words, tmp_path, capsys)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda weights: weights.pop("bn1.weight"), "conv1.1.weight"),
        (lambda weights: weights.update({"conv1.weight": 5}), "state_dict does not fit"),
        (lambda weights: weights.update({7: torch.zeros(1)}), "state_dict does not fit"),
        (lambda weights: weights["conv1.weight"].fill_(float("nan")), "not finite"),
        (
            lambda weights: weights.update({"conv1.weight": torch.zeros(2**14, 3, 3, 3, 3)}),
            "state_dict does not fit",
        ),
    ],
)
def test_a_published_checkpoint_may_be_strange_too(
    spoil: Callable[[dict], Any],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights: dict[Any, Tensor] = published_weights("c3d", 1, c=4)
    from_state_dict(weights)
    spoil(weights)
    assert_refused({"state_dict": weights}, words, tmp_path, capsys)


def assert_refused(
    state: dict, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "strange.pt"
    torch.save(state, path)
    arguments = ["retrieval", "--checkpoint", str(path), "--videos", str(folder)]
    assert evaluate.main([*arguments, "--out", str(folder / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert str(path) in error
    assert error.count("\n") == 1
