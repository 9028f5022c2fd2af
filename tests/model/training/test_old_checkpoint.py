"""A checkpoint written when every module was in another folder: it continues, and is judged.

r3d_after_2_steps.pt is what commit 7866239 left after

python train.py --videos samples --device cpu --model r3d --width 0.01 --bs 2 --size 64 \
    --resize 72x96 --steps 2
"""

from pathlib import Path

import pytest
import torch

import train
from dali_pipes.prepare.samples import MOTIONS, write_sample
from model.evaluation.network import load
from model.training import checkpoint

OLD = Path(__file__).with_name("r3d_after_2_steps.pt")
FLAGS = "--device cpu --model r3d --width 0.01 --bs 2 --size 64 --resize 72x96 --num_workers 0"


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """The videos that it was trained on, by name."""
    for motion in MOTIONS:
        path = tmp_path / "samples" / f"{motion}_000.mp4"
        path.parent.mkdir(exist_ok=True)
        write_sample(path, motion, 0, "train", 0)
    return path.parent


def flags_to_continue(samples: Path, tmp_path: Path, saved: Path) -> list[str]:
    folders = f"--model_save_dir {tmp_path / 'saved'} --log_dir {tmp_path / 'logs'}"
    return f"--videos {samples} {FLAGS} {folders} --steps 3 --resume {saved}".split()


def test_flow_that_is_gone_is_named(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(flags_to_continue(samples, tmp_path, OLD)) == 2
    error = capsys.readouterr().err
    assert "flow 'dis' is no more" in error
    assert "begin a new run" in error
    assert error.count("\n") == 1


def test_training_continues(samples: Path, tmp_path: Path) -> None:
    """As if its flow had been today's."""
    state = checkpoint.load(OLD)
    state["loader"]["stream"]["flow"] = "tvl1-fast"
    place = tmp_path / "saved" / "r3d_20261124" / OLD.name
    place.parent.mkdir(parents=True)
    torch.save(state, place)
    assert train.main(flags_to_continue(samples, tmp_path, place)) == 0
    found = checkpoint.newest(tmp_path / "saved")
    assert found is not None
    assert found[0].parent == place.parent
    old, new = checkpoint.load(OLD), found[1]
    assert (old["step"], new["step"]) == (2, 3)
    assert (old["loader"]["consumed"], new["loader"]["consumed"]) == (4, 6)
    assert new["net"].keys() == old["net"].keys()
    assert not torch.equal(new["net"]["heads.motion.weight"], old["net"]["heads.motion.weight"])


def test_its_network_is_judged() -> None:
    loaded = load(str(OLD), model="c3d", width=1.0, seed=0)  # a checkpoint knows better
    state = checkpoint.load(OLD)["net"]
    for name, value in loaded.backbone.named_parameters():
        assert torch.equal(value, state[f"backbone.{name}"]), name
    assert loaded.clips["size"] == 64
