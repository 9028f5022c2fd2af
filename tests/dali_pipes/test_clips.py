"""The order of clips: a pure function that gives every video its turn."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dali_pipes.clips import Clip, ClipSpec, clip_at, rank_slots, start_frame

SPEC = ClipSpec(seed=3)


def test_the_order_is_the_same_in_every_process_and_release() -> None:
    code = (
        "from dali_pipes.clips import *\n"
        "print([clip_at(i, 7, ClipSpec(seed=3)) for i in (20, 3)], end='')"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout == repr([clip_at(i, 7, SPEC) for i in (20, 3)]), printed.stderr
    # Drawn once and for all: a change here changes what a resumed run sees.
    assert [clip_at(i, 7, SPEC).video for i in range(7)] == [6, 1, 5, 2, 4, 3, 0]
    assert clip_at(5, 7, SPEC) == Clip(0, 3, 0.47793202132218804, crop=(9, 35), flip=True)


@pytest.mark.parametrize("sampling", ["random", "even"])
@pytest.mark.parametrize("clips_per_video", [1, 3])
def test_every_video_comes_as_often_in_an_epoch(sampling, clips_per_video: int) -> None:
    spec = replace(SPEC, sampling=sampling, clips_per_video=clips_per_video)
    for epoch in range(3):
        slots = range(epoch * 11 * clips_per_video, (epoch + 1) * 11 * clips_per_video)
        clips = [clip_at(i, 11, spec) for i in slots]
        assert {clip.epoch for clip in clips} == {epoch}
        assert Counter(clip.video for clip in clips) == dict.fromkeys(range(11), clips_per_video)


def test_epochs_seeds_and_slots_differ() -> None:
    def order(epoch: int, seed: int = 3) -> list[int]:
        spec = replace(SPEC, seed=seed)
        return [clip_at(epoch * 50 + i, 50, spec).video for i in range(50)]

    assert order(0) != order(1)
    assert order(0) != order(0, seed=4)
    clips = [clip_at(i, 50, SPEC) for i in range(2000)]
    assert len({clip.position for clip in clips}) == 2000


def test_draws_are_uniform_and_inside() -> None:
    clips = [clip_at(i, 50, SPEC) for i in range(3000)]
    tops, lefts = np.array([clip.crop for clip in clips]).T
    assert set(tops) == set(range(128 - 112 + 1))  # every crop, the last included
    assert set(lefts) == set(range(171 - 112 + 1))
    assert all(0 <= clip.position < 1 for clip in clips)
    assert 0.47 < np.mean([clip.flip for clip in clips]) < 0.53
    assert 0.48 < np.mean([clip.position for clip in clips]) < 0.52
    unflipped = replace(SPEC, flip=False)
    assert not any(clip_at(i, 50, unflipped).flip for i in range(100))
    # Turning flips off changes nothing else.
    assert all(clip_at(i, 50, unflipped) == replace(clips[i], flip=False) for i in range(100))


def test_start_frames_reach_from_the_first_to_the_last() -> None:
    starts = [start_frame(p, 20, 16) for p in np.linspace(0, 1, 500)]
    assert Counter(starts).keys() == {0, 1, 2, 3, 4}
    assert min(Counter(starts).values()) >= 100
    assert start_frame(0.99, 16, 16) == 0
    with pytest.raises(ValueError, match="has 15 frames, a clip needs 16"):
        start_frame(0.5, 15, 16)


def test_even_clips_span_the_video_in_order() -> None:
    spec = replace(SPEC, sampling="even", clips_per_video=3)
    clips = [clip_at(i, 2, spec) for i in range(6)]
    assert [clip.video for clip in clips] == [0, 0, 0, 1, 1, 1]
    assert [start_frame(clip.position, 40, 16) for clip in clips[:3]] == [0, 12, 24]
    assert {(clip.crop, clip.flip) for clip in clips} == {((8, 29), False)}
    single = clip_at(1, 2, replace(spec, clips_per_video=1))
    assert single == Clip(epoch=0, video=1, position=0.5, crop=(8, 29), flip=False)


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_ranks_share_the_stream_without_gap_or_overlap(world_size: int) -> None:
    batch_size, taken = 3, []
    for step in range(4):
        consumed = step * batch_size * world_size
        shares = [rank_slots(consumed, batch_size, rank, world_size) for rank in range(world_size)]
        assert {len(share) for share in shares} == {batch_size}
        taken += sorted(slot for share in shares for slot in share)
    assert taken == list(range(4 * batch_size * world_size))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 136}, "crop of 136x136 does not fit in frames resized to 128x171"),
        ({"stride": 0}, r"stride must lie in 1\.\.4096, got 0"),
        ({"stride": 10**20}, "stride must lie in"),
        ({"clip_len": 5000}, r"clip_len must lie in 1\.\.4096, got 5000"),
        ({"clips_per_video": 0}, "clips_per_video must lie in"),
        ({"clips_per_video": 10**12}, "clips_per_video must lie in"),
        ({"seed": -1}, "seed must lie in"),
        ({"seed": 2**64}, "seed must lie in"),
        ({"size": 8000, "resize": (10**5, 10**5)}, "size must lie in"),
        ({"resize": (10**5, 200)}, "frames of 100000x200 are too large; 4096 a side at most"),
        ({"rule": "reference", "clip_len": 8}, "exists for 16 frames"),
    ],
)
def test_impossible_clips_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SPEC, **change)


def test_a_clip_reads_the_frames_its_flow_needs() -> None:
    assert [replace(SPEC, rule=rule).frames_for_flow for rule in ("corrected", "reference")] == [
        16,
        17,
    ]
    assert replace(SPEC, stride=4).span(16) == 61
