"""A file's packets, a picture each, and the place of each picture in the order of showing.

Only what the headers prove (`pictures`), and the container's times do not contradict.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from dali_pipes.decoding.pictures import Picture, Stream, Unsure, mpeg4

if TYPE_CHECKING:
    import av

_PACKED = b"DivX"  # the mark of those who put two pictures in a packet of an AVI
_TIMED_IN_HEADERS_ALONE = ("h264", "hevc")
MOST_KEPT = 1 << 29  # bytes of packets in memory
_PARAMETERS = ("new_extradata", "param_change")  # what containers hand over beside a packet


def is_timed(container: "av.container.InputContainer") -> bool:
    """Whether packets carry times of showing."""
    return container.format.name != "avi"


def coded_packets(
    container: "av.container.InputContainer", stream: "av.VideoStream"
) -> "Iterator[av.Packet]":
    """Packets that hold something, in the order of decoding, packed ones taken apart.

    Raises Unsure at one that is damaged or hidden.
    """
    context = stream.codec_context
    packets = _sound(container, stream)
    if is_timed(container):
        return _of_the_same_parameters(packets)
    if context.name in _TIMED_IN_HEADERS_ALONE:
        raise Unsure("is in an AVI")
    if context.name == "mpeg4" and _PACKED in (context.extradata or b""):
        return _unpacked(packets, stream)
    return packets


def _sound(
    container: "av.container.InputContainer", stream: "av.VideoStream"
) -> "Iterator[av.Packet]":
    # Unfinished and not closed, it would leak.
    with closing(container.demux(stream)) as packets:  # type: ignore[type-var]
        for packet in packets:
            if packet.is_discard or packet.is_corrupt:
                raise Unsure("has damaged or hidden packets")
            if packet.size:
                yield packet


def _of_the_same_parameters(packets: "Iterator[av.Packet]") -> "Iterator[av.Packet]":
    for packet in packets:
        if any(beside.data_type in _PARAMETERS for beside in packet.iter_sidedata()):
            raise Unsure("changes its parameters on the way")
        yield packet


def _unpacked(packets: "Iterator[av.Packet]", stream: "av.VideoStream") -> "Iterator[av.Packet]":
    """An AVI's MPEG-4 packets with one picture each; those that held places are dropped."""
    from av.bitstream import BitStreamFilterContext

    unpack = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
    for packet in packets:
        yield from (one for one in unpack.filter(packet) if mpeg4.PICTURE in bytes(one))
    yield from (one for one in unpack.filter(None) if mpeg4.PICTURE in bytes(one))


def shown_pictures(
    container: "av.container.InputContainer",
    stream: "av.VideoStream",
    kept: "list[av.Packet] | None" = None,
) -> tuple[Stream, list[Picture]]:
    """The pictures of a whole video, in the order of its packets, which are put into `kept`.

    Raises Unsure.
    """
    known = Stream(stream.codec_context.name, stream.codec_context.extradata or b"")
    times, held = [], 0
    for packet in coded_packets(container, stream):
        known.add(bytes(packet))
        times.append(packet.pts)
        if kept is not None:
            held += packet.size
            if held > MOST_KEPT:
                raise Unsure(f"holds more than {MOST_KEPT >> 20} MiB")
            kept.append(packet)
    shown = known.pictures()
    if is_timed(container):
        check_times(times, shown)
    return known, shown


def check_times(times: Sequence[int | None], shown: Sequence[Picture]) -> None:
    """Raises Unsure unless the packets' times of showing are in the order of their pictures."""
    if _ranks(times) != [picture.rank for picture in shown]:
        raise Unsure("its time stamps are not in the order of its pictures")


def _ranks(times: Sequence[int | None]) -> list[int]:
    """The place of each time in their order; none at all if they do not tell it."""
    if None in times or len(set(times)) < len(times):
        return []
    known = [time for time in times if time is not None]
    place = {time: rank for rank, time in enumerate(sorted(known))}
    return [place[time] for time in known]


def last_reset(shown: Sequence[Picture], rank: int) -> int:
    """The last packet that decoding can begin at to show the picture of that rank."""
    return max(n for n, picture in enumerate(shown) if picture.resets and picture.rank <= rank)
