"""Steps queued before it is known what came of the one before, as on a GPU; here on a CPU, where
each has been done when the next is queued."""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from dali_pipes import ClipBatch
from model.networks.heads import StatisticsNet
from model.training import learner
from model.training.distributed import Ranks
from model.training.learner import Queued, train_step
from tests.test_train import (  # noqa: F401
    Train,
    checkpoints,
    events,
    losses,
    run,
    run_objects,
    trained_on,
    weights,
)

NETWORKS = ("c3d", "r3d18", "s3dg")  # all kinds of layers


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "steps_ahead", lambda device: 1)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done with steps, in order."""
    done: list[str] = []
    real, save = Queued.result, train.save

    def queue(*arguments: object) -> Queued:
        done.append("queue")
        return train_step(*arguments)  # type: ignore[arg-type]

    def read(self: Queued, *arguments: object) -> object:
        done.append("read")
        return real(self, *arguments)  # type: ignore[arg-type]

    def saved(*arguments: object) -> None:
        done.append("save")
        save(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "train_step", queue)
    monkeypatch.setattr(Queued, "result", read)
    monkeypatch.setattr(train, "save", saved)
    return done


FLAGS = "--bs 2"  # 3 steps an epoch


def test_losses_are_read_once_the_next_step_is_queued(
    run: Train,  # noqa: F811
    log: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run(f"{FLAGS} --steps 5", "plain") == 0
    epoch = ["queue", "read"] * 3 + ["save"]
    assert log == epoch + ["queue", "read"] * 2 + ["save"]
    log.clear()
    monkeypatch.setattr(learner, "steps_ahead", lambda device: 1)
    assert run(f"{FLAGS} --steps 5", "ahead") == 0
    # Nothing is unread when a checkpoint is written: at the end of an epoch, and of the run.
    epoch = ["queue", *["queue", "read"] * 2, "read", "save"]
    assert log == [*epoch, "queue", "queue", "read", "read", "save"]


def test_a_run_ahead_learns_the_same_and_resumes(
    run: Train,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A run goes on where the other kind stopped, as from a CPU to a GPU and back."""
    assert run(f"{FLAGS} --steps 5", "plain") == 0
    for steps, ahead in ((1, 0), (3, 1), (4, 1), (5, 0)):
        monkeypatch.setattr(learner, "steps_ahead", lambda device, ahead=ahead: ahead)
        assert run(f"{FLAGS} --steps {steps} --resume", "mixed") == 0
    plain, mixed = losses(tmp_path / "plain"), losses(tmp_path / "mixed")
    assert list(plain) == list(mixed) == list(range(1, 6))
    np.testing.assert_allclose([*plain.values()], [*mixed.values()], rtol=1e-4)  # rounding
    first = weights(tmp_path / "plain")
    for name, weight in weights(tmp_path / "mixed").items():
        torch.testing.assert_close(weight, first[name], rtol=1e-3, atol=1e-5)
    rates = [[e.value for e in events(tmp_path / o).Scalars("lr")] for o in ("plain", "mixed")]
    assert rates[0] == rates[1]


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("model", NETWORKS)
def test_a_step_that_is_not_finite_changes_nothing_on_the_device(
    run: Train,  # noqa: F811
    model: str,
) -> None:
    """The first step of all, too, before which there is no momentum."""
    size = "--clip_len 16 --size 64 --resize 72x96" if model == "s3dg" else ""
    state = run_objects(run, f"--steps 5 --bs 2 --model {model} {size}", "guard")
    state.parallel.train()
    batch = state.loader.next_batch()
    for _ in range(2):
        before = copied(state)
        hook = state.net.backbone.register_forward_hook(lambda *of: of[-1] * torch.inf)
        result = trained_on(state, batch)
        hook.remove()
        assert not result.taken
        assert not np.isfinite(result.motion_loss)
        assert same(before, copied(state))
        assert trained_on(state, batch).taken  # and training goes on
        after = copied(state)
        assert not any(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))


def copied(state: train.Run) -> tuple[list[torch.Tensor], ...]:
    """Weights, statistics of batch norm, and momentum where there is any."""
    momentum = [state.optimizer.state[p].get("momentum_buffer") for p in state.net.parameters()]
    kept = [buffer for buffer in momentum if buffer is not None and buffer.any()]
    parts = (list(state.net.parameters()), list(state.net.buffers()), kept)
    return tuple([tensor.detach().clone() for tensor in tensors] for tensors in parts)


def same(one: tuple[list[torch.Tensor], ...], other: tuple[list[torch.Tensor], ...]) -> bool:
    pairs = [pair for a, b in zip(one, other, strict=True) for pair in zip(a, b, strict=True)]
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_loss_that_is_not_finite_shows_in_every_gradient(
    run: Train,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which the processes share, so that all leave the step out. Squared errors can be too large
    for a number while their derivatives are not."""
    state = run_objects(run, "--steps 5 --bs 2", "guard")
    state.parallel.train()
    batch = state.loader.next_batch()
    bias = state.net.heads.motion.bias
    bias.data += 1e25
    before = bias.detach().clone()
    seen = []
    hook = bias.register_hook(lambda gradient: seen.append(gradient.clone()))
    result = trained_on(state, batch)
    hook.remove()
    assert not result.taken
    assert seen[0].isnan().all()
    assert torch.equal(bias, before)


@pytest.mark.usefixtures("ahead")
def test_steps_that_are_not_finite_do_not_count_and_a_few_in_a_row_end_the_run(
    run: Train,  # noqa: F811
    log: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real, calls = StatisticsNet.forward, []
    bad = {2, 4, 8}  # 8: the one that would have been the last

    def forward(self: StatisticsNet, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        calls.append(len(calls) + 1)
        motion, app = real(self, frames)
        return (motion * torch.nan if calls[-1] in bad else motion), app

    monkeypatch.setattr(StatisticsNet, "forward", forward)
    assert run("--bs 2 --clips_per_video 9 --steps 6") == 0
    assert len(calls) == 9
    assert [*losses(tmp_path / "a")] == [1, 2, 3, 4, 5, 6]
    lines = [line for line in capsys.readouterr().out.splitlines() if "not finite" in line]
    assert len(lines) == 3
    assert all(line.count("synthetic/") == 2 for line in lines)
    assert checkpoints(tmp_path / "a") == ["step_00000006.pt"]

    bad |= set(range(12, 99))
    assert run("--bs 2 --clips_per_video 9 --steps 20", "b") == 1
    assert len(calls) == 9 + 2 + train.BAD_STEPS + 1  # the next was queued when the last was read
    assert [*losses(tmp_path / "b")] == [1, 2]
    error = capsys.readouterr().err
    assert "5 steps in a row without a finite loss and gradient" in error


@dataclass(frozen=True)
class Twins(Ranks):
    """Two processes of which this is one and the other does the same."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        exchanges.append("sum")
        return 2 * values

    def gather(self, value: object) -> list[object]:
        return [value, value]

    def share(self, value: object) -> object:
        return value

    def parallel(self, net: torch.nn.Module, sync_bn: bool) -> torch.nn.Module:
        return net


exchanges: list[str] = []


@pytest.mark.parametrize("steps_ahead", [0, 1])
def test_processes_exchange_once_a_step(
    run: Train,  # noqa: F811
    steps_ahead: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    @contextmanager
    def joined(choice: str):  # type: ignore[no-untyped-def]
        yield Twins(0, 2, torch.device("cpu"), "asked for")

    def queue(*arguments: object) -> Queued:
        exchanges.append("step")
        return train_step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "joined", joined)
    monkeypatch.setattr(train, "train_step", queue)
    monkeypatch.setattr(learner, "steps_ahead", lambda device: steps_ahead)
    exchanges.clear()
    assert run("--bs 2 --clips_per_video 9 --steps 5") == 0
    unread = ["sum"] * (1 + steps_ahead)  # before the checkpoint
    assert exchanges == ["sum", "step"] * 5 + unread
    assert [*losses(tmp_path / "a")] == [1, 2, 3, 4, 5]


@pytest.mark.gpu
def test_the_host_waits_for_nothing_in_a_step(run: Train) -> None:  # noqa: F811
    state = run_objects(run, "--steps 5 --bs 2 --device cuda --precision bf16", "guard")
    state.parallel.train()
    batch: ClipBatch = state.loader.next_batch()
    for _ in range(3):  # libraries start
        trained_on(state, batch)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(2_000_000_000)  # about a second
        queued = train_step(state, batch, len(batch))
        asleep = not torch.cuda.current_stream().query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert asleep
    assert queued.result(queued.shares().tolist()).taken
