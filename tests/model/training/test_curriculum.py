"""The schedule of the curriculum, and which clips it takes."""

import torch

from model.training.curriculum import clearest, kept


def test_the_share_grows_from_the_start_to_all() -> None:
    assert [kept(8, 0.25, progress) for progress in (0, 0.1, 0.25, 0.4, 0.5, 0.9, 1)] == [
        2, 4, 5, 7, 8, 8, 8,
    ]  # fmt: skip
    assert kept(1, 0.1, 0) == 1
    assert kept(0, 0.5, 0) == 0


def test_the_clearest_clips_are_taken_in_the_order_of_the_batch() -> None:
    confidence = torch.tensor([0.1, 0.9, 0.3, 0.8])
    assert clearest(confidence, 2).tolist() == [1, 3]
    assert clearest(confidence, 3).tolist() == [1, 2, 3]
    assert clearest(confidence, 0).tolist() == []
