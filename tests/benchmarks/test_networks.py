"""The training step, eager and compiled: the same step, and only then timed."""

from collections.abc import Callable, Iterator
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import train
from benchmarks import networks, training
from benchmarks.networks import AS_TRAINED, COMPILED, CONTIGUOUS
from model import BACKBONES
from model.networks.backbone import Backbone, conv_bn_relu

FLAGS = ["--model", "tiny", "--bs", "2", "--precision", "float32"]
FLAGS += ["--clip_len", "8", "--size", "32", "--resize", "36x48"]


class Tiny(Backbone):
    """A convolution: what a compiler takes grows with the layers."""

    stages = ("conv1",)
    channels = 4

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(*conv_bn_relu(3, 4))


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "tiny", Tiny)


@pytest.fixture
def run(few_samples: Path) -> Iterator[train.Run]:
    flags = ["--videos", str(few_samples), "--num_workers", "0", *FLAGS]
    with training.running(flags) as run:
        yield run


def measured(videos: Path) -> dict[str, dict[str, Any]]:
    rows = networks.networks(["--videos", str(videos), *FLAGS], 0.01)
    assert {row["section"] for row in rows} == {"network"}
    return {row["network"]: row for row in rows}


def compile_by(monkeypatch: pytest.MonkeyPatch, backend: Callable[..., Any]) -> None:
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=backend))


def test_only_the_compiled_network_runs_what_was_compiled(
    few_samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        return lambda *values: [ran.append(graph), graph(*values)][1]

    compile_by(monkeypatch, backend)
    real, by_variant = networks.step, {}

    def step(run: train.Run, batch: Any) -> int:
        before = len(ran)
        clips = real(run, batch)
        by_variant.setdefault(id(run), set()).add(len(ran) - before)
        return clips

    monkeypatch.setattr(networks, "step", step)
    rows = measured(few_samples)
    assert list(rows) == [AS_TRAINED, COMPILED, CONTIGUOUS]
    assert list(by_variant.values()) == [{0}, {1}, {0}]
    assert len(set(map(id, ran))) == 1  # one graph: nothing is compiled while it is timed
    for name, row in rows.items():
        assert row["us_per_clip"] > 0
        assert "note" not in row
        assert ("compile_seconds" in row) == (name == COMPILED)
        assert ("ratio" in row) == (name != AS_TRAINED)


@pytest.mark.battery
@pytest.mark.timeout(600)
def test_the_real_compiler_gives_the_same_losses(few_samples: Path) -> None:
    rows = measured(few_samples)
    assert rows[COMPILED]["compile_seconds"] > 0
    assert all("us_per_clip" in row for row in rows.values())


@pytest.mark.parametrize("in_backward", [False, True])
def test_where_compiling_fails_the_others_are_timed(
    in_backward: bool, few_samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no C++ compiler\nand much more")

    def late(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        def call(*values: Tensor) -> Any:
            motion, app = graph(*values)
            motion.register_hook(broken)
            return motion, app

        return call

    compile_by(monkeypatch, late if in_backward else broken)
    rows = measured(few_samples)
    note = rows[COMPILED].pop("note")
    assert note.startswith("torch.compile fails: ")
    assert "no C++ compiler" in note
    assert "\n" not in note
    assert not {"us_per_clip", "ratio", "compile_seconds"} & rows[COMPILED].keys()
    assert all("us_per_clip" in rows[name] for name in (AS_TRAINED, CONTIGUOUS))


def test_who_computes_something_else_is_named_and_not_timed(
    few_samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in its forward pass, the other in what it learns alone."""

    def wrong(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        return lambda *values: [out + 0.01 for out in graph(*values)]

    def learns_less(run: train.Run) -> train.Run:
        for weight in run.net.heads.parameters():
            weight.register_hook(lambda gradient: gradient / 2)
        return right(run)

    compile_by(monkeypatch, wrong)
    right = networks.contiguous
    monkeypatch.setattr(networks, "contiguous", learns_less)
    rows = measured(few_samples)
    assert rows[COMPILED]["note"].startswith("step 1 has loss ")
    assert rows[CONTIGUOUS]["note"].startswith("step 2 has loss ")
    assert [name for name, row in rows.items() if "us_per_clip" in row] == [AS_TRAINED]


def test_contiguous_is_so_from_the_first_layer_on(run: train.Run) -> None:
    seen: dict[str, Tensor] = {}

    def look(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.update(into=inputs[0], out=output)

    run.net.backbone.get_submodule("conv1.0").register_forward_hook(look)
    batch = run.loader.next_batch()
    for change, layout in (
        (lambda run: run, torch.channels_last_3d),
        (networks.contiguous, torch.contiguous_format),
    ):
        change(run)
        training.step(run, batch)
        assert all(tensor.is_contiguous(memory_format=layout) for tensor in seen.values())
        weight = run.net.get_parameter("backbone.conv1.0.weight")
        assert weight.is_contiguous(memory_format=layout)


def test_losses_that_are_no_number_differ() -> None:
    assert networks.difference([1.0, 2.0], [1.0, 2.00019], 1e-4) == ""
    assert "step 2" in networks.difference([1.0, 2.0], [1.0, 2.0003], 1e-4)
    assert "step 1" in networks.difference([float("nan"), 2.0], [1.0, 2.0], 1e-4)


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_step_waits_for_as_many_before_it_as_training_does(
    ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def queue(run: Any, batch: Any, clips: int) -> Any:
        number = sum(event.startswith("queued") for event in events)
        events.append(f"queued {number}")
        return SimpleNamespace(shares=lambda: events.append(f"read {number}"))

    monkeypatch.setattr(train, "train_step", queue)
    monkeypatch.setattr(training, "_unread", type(training._unread)())
    run: Any = SimpleNamespace(ahead=ahead)
    batch: Any = [1, 2, 3]
    for _ in range(3):
        assert training.step(run, batch) == 3
    if ahead:
        assert events == ["queued 0", "queued 1", "read 0", "queued 2", "read 1"]
    else:
        assert events == ["queued 0", "read 0", "queued 1", "read 1", "queued 2", "read 2"]
