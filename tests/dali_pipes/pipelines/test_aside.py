"""Work beside the training step, with streams that note what is queued, in which order."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from dali_pipes import ClipLoader
from dali_pipes.pipelines import feed
from dali_pipes.pipelines.aside import Aside
from dali_pipes.sources import Synthetic

GPU = torch.device("cuda", 0)
SMALL = {"clip_len": 8, "size": 32, "resize": (36, 48), "num_workers": 0}


class Event:
    """Passed when the test says so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.passed = False

    def query(self) -> bool:
        return self.passed

    def synchronize(self) -> None:
        waited.append(self.name)


waited: list[str] = []  # for what by the host


class Stream:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log
        self.events: list[Event] = []

    def queue(self, what: str) -> None:
        self.log.append(f"{self.name}: {what}")

    def record_event(self) -> Event:
        self.events.append(Event(f"{self.name} {len(self.events)}"))
        self.queue(f"event {self.events[-1].name}")
        return self.events[-1]

    def wait_event(self, event: Event) -> None:
        self.queue(f"wait for {event.name}")

    def wait_stream(self, other: "Stream") -> None:
        self.wait_event(other.record_event())


class Gpu:
    """The streams of a GPU that is not there: `training` is current but within `aside`'s work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.training, self.aside = (Stream(name, self.log) for name in ("training", "aside"))
        self.current = self.training
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self.aside)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.current)
        monkeypatch.setattr(torch.cuda, "stream", self._within)

    @contextmanager
    def _within(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch)


def test_streams_wait_for_each_other_and_the_host_for_none(gpu: Gpu) -> None:
    aside = Aside(GPU)
    made = aside.make(lambda: gpu.current.queue("batch 0"))
    for n in (1, 2):
        aside.take(made)
        made = aside.make(lambda n=n: gpu.current.queue(f"batch {n}"))
        gpu.training.queue(f"step {n - 1}")
    assert gpu.log == [
        "training: event training 0",
        "aside: wait for training 0",
        "aside: batch 0",
        "aside: event aside 0",
        "training: event training 1",  # until here memory of the batch before is read
        "training: wait for aside 0",
        "training: event training 2",
        "aside: wait for training 2",  # batch 1 is made beside step 0
        "aside: batch 1",
        "aside: event aside 1",
        "training: step 0",
        "training: event training 3",
        "training: wait for aside 1",
        "training: event training 4",
        "aside: wait for training 4",  # after step 0, whose memory batch 2 may get
        "aside: batch 2",
        "aside: event aside 2",
        "training: step 1",
    ]


class Borrowed:
    is_cuda = True

    def __init__(self, name: str, held: set[str]) -> None:
        self.name, self.held = name, held
        held.add(name)

    def __del__(self) -> None:
        self.held.discard(self.name)


def test_borrowed_memory_is_held_until_both_streams_are_past_it(gpu: Gpu) -> None:
    aside, held = Aside(GPU), set[str]()

    def work(name: str) -> str:
        aside.borrow(Borrowed(name, held))  # type: ignore[arg-type]
        return name

    def step(n: int) -> None:
        assert aside.take(aside.make(lambda: work(f"batch {n}"))) == f"batch {n}"

    step(0)
    gpu.aside.events[0].passed = True  # it is made, but the step that reads it is not even queued
    step(1)
    assert held == {"batch 0", "batch 1"}
    for event in gpu.training.events + gpu.aside.events:
        event.passed = True
    step(2)
    step(3)
    assert held >= {"batch 2", "batch 3"}  # nothing says that the GPU is past these
    assert "batch 0" not in held

    with pytest.raises(ValueError, match="gone wrong"):
        aside.make(lambda: (work("batch 4"), _raise()))
    assert "batch 4" in held  # its kernels may have been queued


def test_who_never_waits_is_held_back_after_three_batches(gpu: Gpu) -> None:
    aside = Aside(GPU)
    waited.clear()
    for n in range(5):
        aside.take(aside.make(lambda: None))
        assert len(waited) == max(0, 2 * n - 4)
    assert waited == ["aside 0", "training 1", "aside 1", "training 3"]


def _raise() -> None:
    raise ValueError("gone wrong")


def test_on_a_cpu_work_is_done_when_it_is_asked_for() -> None:
    aside = Aside(torch.device("cpu"))
    tensor = torch.zeros(1)
    made = aside.make(lambda: aside.borrow(tensor))
    assert made.result is tensor
    assert aside.take(made) is tensor
    assert not aside.is_there
    assert not aside._in_use


# ---- in the loader ------------------------------------------------------------------------------


def loader(**given: object) -> ClipLoader:
    source = given.pop("source", Synthetic.make(5, size=(48, 64)))
    return ClipLoader(source, batch_size=2, flow="tvl1-fast", **SMALL | given)  # type: ignore[arg-type]


@pytest.fixture
def beside(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    make_beside(gpu, monkeypatch)
    return gpu


def make_beside(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every loader makes batches beside training, on the CPU."""
    real = Aside.__init__

    def there(self: Aside, device: torch.device) -> None:
        real(self, device)
        self._stream = gpu.aside  # type: ignore[assignment]

    def labels(self: ClipLoader, *arrays: torch.Tensor) -> torch.Tensor:
        gpu.current.queue("labels")
        return label(self, *arrays)

    label = ClipLoader._labels
    monkeypatch.setattr(Aside, "__init__", there)
    monkeypatch.setattr(ClipLoader, "_labels", labels)
    monkeypatch.setattr(feed.Feed, "is_ready", True)  # whatever is asked for is waited for


def same(one: object, other: object) -> bool:
    names = ("frames", "flow", "labels", "video", "start", "crop", "flip")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def test_batches_made_ahead_are_those_of_a_plain_loader(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = loader()
    expected = [plain.next_batch() for _ in range(6)]  # over the ends of epochs
    state = plain.state_dict()
    make_beside(gpu, monkeypatch)
    ahead = loader()
    assert all(same(ahead.next_batch(), batch) for batch in expected[:4])
    assert ahead.consumed == 8  # the one that is made ahead does not count
    halfway = ahead.state_dict()
    assert all(same(ahead.next_batch(), batch) for batch in expected[4:])
    assert ahead.state_dict() == state

    ahead.load_state_dict(halfway)  # goes back: what was made ahead is another batch
    assert same(ahead.next_batch(), expected[4])
    ahead.close()
    assert same(ahead.next_batch(), expected[5])


def test_batch_two_is_labelled_beside_the_first_step(beside: Gpu) -> None:
    clips = loader()
    for n in range(2):
        clips.next_batch()
        beside.training.queue(f"step {n}")
    work = [line for line in beside.log if line.split(": ")[1].startswith(("labels", "step"))]
    assert work == [
        "aside: labels",  # of the first, and of the second before the first step is queued
        "aside: labels",
        "training: step 0",
        "aside: labels",
        "training: step 1",
    ]


def test_nothing_is_made_ahead_that_would_be_waited_for(
    beside: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed.Feed, "is_ready", False)
    clips = loader()
    clips.next_batch()
    assert beside.log.count("aside: labels") == 1


def test_a_bad_file_is_reported_with_its_own_batch(beside: Gpu, tmp_path: Path) -> None:
    from dali_pipes.decoding.opening import BadVideo

    source = Synthetic.make(6, size=(48, 64))
    real = Synthetic.read_clip

    class Source(Synthetic):
        def read_clip(self, item: int, *arguments: object) -> object:
            if item == bad:
                raise BadVideo(self.paths[item], "decode", "it is broken")
            return real(self, item, *arguments)  # type: ignore[arg-type]

    bad = -1
    order = [int(n) for batch in loader(source=source) for n in batch.video]
    bad = order[2]  # of the second batch
    reported: list[int] = []
    clips = loader(source=Source(**vars(source)), on_skip=lambda skip: reported.append(skip.slot))
    clips.next_batch()
    assert not reported
    assert len(clips.next_batch()) == 1
    assert reported == [2]


def test_an_interrupt_while_the_next_is_made_loses_none(
    beside: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [batch.start.tolist() for batch in loader()]
    clips = loader()
    with monkeypatch.context() as patch:
        make, calls = ClipLoader._make, []

        def interrupted(self: ClipLoader, consumed: int) -> object:
            calls.append(consumed)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return make(self, consumed)

        patch.setattr(ClipLoader, "_make", interrupted)
        with pytest.raises(KeyboardInterrupt):
            clips.next_batch()
    assert [batch.start.tolist() for batch in clips] == wanted


@pytest.mark.gpu
def test_on_a_gpu_batches_are_made_while_a_step_is_at_work() -> None:
    """And are those of a loader of which nothing is asked before the GPU is done."""
    source = Synthetic.make(5, size=(144, 160))
    patient, busy = (loader(source=source, device="cuda", num_workers=1) for _ in range(2))
    expected = []
    for _ in range(6):
        expected.append(patient.next_batch())
        torch.cuda.synchronize()
    found = [busy.next_batch() for _ in range(2)]  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            torch.cuda._sleep(500_000_000)  # a step of a quarter of a second
            found.append(busy.next_batch())
            assert not torch.cuda.current_stream().query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert all(same(batch, wanted) for batch, wanted in zip(found, expected, strict=True))
