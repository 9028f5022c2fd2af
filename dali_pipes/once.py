"""Every clip of a data set once."""

from collections.abc import Iterator

import torch
from tqdm import tqdm

from dali_pipes.batch import ClipBatch
from dali_pipes.loader import ClipLoader


def each_once(loader: ClipLoader) -> Iterator[ClipBatch]:
    """An epoch of a loader that samples evenly, with a progress bar; no clip comes twice.

    Clips are the same if video and start are. The loader is closed at the end.
    """
    known: set[tuple[int, int]] = set()
    with tqdm(total=loader.clips_per_epoch, unit="clip", disable=None) as bar:
        for batch in loader:
            # The last batch may reach into the next epoch, whose clips are known by then.
            places = list(zip(batch.video.tolist(), batch.start.tolist(), strict=True))
            new = {place: row for row, place in enumerate(places) if place not in known}
            known.update(new)
            if new:
                yield batch.clips(torch.tensor(list(new.values()), device=batch.video.device))
            bar.update(min(loader.batch_size, loader.clips_per_epoch - bar.n))
    loader.close()
