"""Frames by number from as few pictures as show them.

Decoding begins at the last picture before the clip that it can begin at, and pictures that no other
refers to are left out unless they are wanted. What a decoder shows of the rest is known one by
one: it gets each picture's number for its time stamp, and gives it back.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dali_pipes.decoding.claims import too_much_to_decode
from dali_pipes.decoding.packets import MOST_KEPT, check_times, coded_packets, is_timed, last_reset
from dali_pipes.decoding.pictures import Picture, Stream, Unsure

if TYPE_CHECKING:
    import av


_LATE = 64  # pictures: more than are stored after a keyframe that is shown after them


def needed_frames(
    container: "av.container.InputContainer", stream: "av.VideoStream", numbers: Sequence[int]
) -> "Iterator[av.VideoFrame]":
    """The frames of `numbers` (rising). Raises Unsure, also between frames.

    The container has just been opened.
    """
    packets, shown = _read(container, stream, numbers)
    wanted = set(numbers)
    chosen = _chosen(shown, numbers[0], wanted)
    if stream.codec_context.name == "mpeg4" and chosen[0]:
        chosen.insert(0, 0)  # whose headers tell the encoder's errors, which a decoder repeats
    context = stream.codec_context
    if too_much_to_decode(len(chosen), context.height, context.width):
        raise Unsure("takes too much to decode")
    feed: list[av.Packet | None] = []
    for n in chosen:
        packet = packets[n]
        if packet is None:
            raise Unsure("has a keyframe that is shown late")
        packet.pts, packet.dts = shown[n].rank, None
        feed.append(packet)
    due = iter(sorted(shown[n].rank for n in chosen))
    for packet in (*feed, None):
        for frame in stream.codec_context.decode(packet):
            if frame.is_corrupt or frame.pts != next(due, None):
                raise Unsure("shows other pictures than its headers say")
            if frame.pts in wanted:
                wanted.remove(frame.pts)
                yield frame
    if wanted:
        raise Unsure("shows fewer pictures than its headers say")


def _read(
    container: "av.container.InputContainer", stream: "av.VideoStream", numbers: Sequence[int]
) -> "tuple[list[av.Packet | None], list[Picture]]":
    """The packets up to the clip's end and a little beyond, None where none of them is needed."""
    known = Stream(stream.codec_context.name, stream.codec_context.extradata or b"")
    # What a decoder shows up to the clip's end depends on nothing that follows these.
    enough = numbers[-1] + 1 + known.held + 1
    packets: list[av.Packet | None] = []
    times = []
    kept = 1  # packets before are no longer, but for the first: long videos need not lie in memory
    held = 0  # bytes
    for packet in coded_packets(container, stream):
        coded = known.add(bytes(packet))
        if coded.resets and len(packets) <= numbers[0] - _LATE:
            for n in range(kept, len(packets)):
                packets[n] = None
            kept, held = max(kept, len(packets)), 0
        held += packet.size
        if held > MOST_KEPT:
            raise Unsure("holds too much from a keyframe on")
        packets.append(packet)
        times.append(packet.pts)
        if len(packets) == enough:
            break
    shown = known.pictures()
    if numbers[-1] >= len(shown):
        raise Unsure("ends before the clip")
    if is_timed(container):
        check_times(times, shown)
    known.check_held(shown)
    return packets, shown


def _chosen(shown: Sequence[Picture], first: int, wanted: set[int]) -> list[int]:
    """The packets to decode, in the order of decoding."""
    begin = last_reset(shown, first)
    end = max(n for n, picture in enumerate(shown) if picture.rank in wanted) + 1
    return [
        n
        for n in range(begin, end)
        # Pictures shown before the keyframe but stored after it may lack what they refer to.
        if shown[n].rank >= shown[begin].rank and (shown[n].referred or shown[n].rank in wanted)
    ]
