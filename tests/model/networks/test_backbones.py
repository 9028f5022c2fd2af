"""Backbones and heads: shapes, width, input convention, label columns."""

import pytest
import torch

from kernels.labels.schema import LABELS, NAMES
from model import BACKBONES
from model.networks.backbone import Pixels
from model.networks.c3d import C3D
from model.networks.heads import (
    ClassificationHeads,
    GeometricHeads,
    StatisticsHeads,
    StatisticsNet,
    label_columns,
)
from model.training.loss import GeometricLoss


def frames(n: int = 2, t: int = 16, s: int = 112) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, t, s, s, 3), dtype=torch.uint8, generator=generator)


def test_c3d_has_the_published_size() -> None:
    """27.66 M parameters of convolutions and norms, counted from the published layer list."""
    channels = [(3, 64), (64, 128), (128, 256), (256, 256), (256, 512), *[(512, 512)] * 3]
    expected = sum(27 * i * o + o + 2 * o for i, o in channels)
    assert sum(p.numel() for p in C3D().parameters()) == expected
    assert C3D().channels == 512


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_narrow_down_to_the_pooled_features(name: str) -> None:
    backbone = BACKBONES[name](width=0.1).eval()
    clips = frames(2, 16, 64)
    with torch.no_grad():
        maps = [backbone.features(clips, stage) for stage in backbone.stages]
        pooled = backbone(clips)
    assert maps[-1].shape[:2] == (2, backbone.channels) == pooled.shape
    torch.testing.assert_close(pooled, maps[-1].mean(dim=(2, 3, 4)))
    sides = [m.shape[-1] for m in maps]
    assert sides == sorted(sides, reverse=True)
    assert sides[0] > sides[-1]
    with pytest.raises(ValueError, match=r"no stage 'conv9'.*" + backbone.stages[0]):
        backbone.features(frames(), "conv9")


def test_c3d_feature_maps() -> None:
    backbone = C3D(width=0.1).eval()
    with torch.no_grad():
        shapes = [tuple(backbone.features(frames(1), s).shape[1:]) for s in backbone.stages]
    assert shapes == [
        (6, 16, 112, 112),
        (13, 16, 56, 56),
        (26, 8, 28, 28),
        (51, 4, 14, 14),
        (51, 2, 7, 7),
    ]


def test_normalisation_maps_bytes_to_plus_minus_one_without_a_copy_of_the_layout() -> None:
    backbone = C3D(width=0.1)
    clip = frames(1)
    x = backbone.normalise(clip)
    assert x.is_contiguous(memory_format=torch.channels_last_3d)
    expected = clip.numpy().transpose(0, 4, 1, 2, 3).astype("float32") / 127.5 - 1
    torch.testing.assert_close(x, torch.from_numpy(expected))
    with torch.autocast("cpu", torch.bfloat16):
        assert backbone.normalise(clip).dtype == torch.bfloat16


def test_the_input_convention_travels_with_the_weights() -> None:
    theirs, ours = C3D(width=0.1), C3D(width=0.1)
    theirs.pixels = Pixels("BGR", offset=0.0, scale=1.0)
    ours.load_state_dict(theirs.state_dict())
    clip = frames(1)
    assert torch.equal(ours.normalise(clip), clip.flip(-1).permute(0, 4, 1, 2, 3).float())


def test_flags_choose_patterns_and_thereby_columns() -> None:
    def names(family: str, flags: tuple[int, ...]) -> str:
        return " ".join(NAMES[column] for column in label_columns(family, flags))

    assert names("motion", (1, 0, 0, 0)) == "u1p u1o v1p v1o"
    assert names("motion", (0, 0, 1, 1)) == "u3p u3o v3p v3o ug vg"
    assert names("appearance", (0, 1, 0, 0)) == "2dp 2dc 2cp 2cc"
    assert names("appearance", (0, 0, 0, 1)) == "gc"
    assert len(label_columns("motion", (1, 1, 1, 1))) == 14
    assert len(label_columns("appearance", (1, 1, 1, 1))) == 13
    with pytest.raises(ValueError, match="4 values of 0 or 1"):
        label_columns("motion", (1, 1, 1))


def test_heads_put_out_the_chosen_columns() -> None:
    backbone = C3D(width=0.1)
    net = StatisticsNet(backbone, StatisticsHeads(backbone.channels, (1, 1, 1, 1), (1, 0, 0, 1)))
    motion, app = net(frames(2, 8, 32))
    assert (motion.shape, app.shape) == ((2, 14), (2, 5))
    net = StatisticsNet(backbone, StatisticsHeads(backbone.channels, (0, 0, 0, 0)))
    motion, app = net(frames(2, 8, 32))
    assert (motion.shape, app.shape) == ((2, 0), (2, 13))
    with pytest.raises(ValueError, match="no label to learn"):
        StatisticsHeads(8, (0, 0, 0, 0), (0, 0, 0, 0))


@pytest.mark.parametrize("clip_len", [16, 8])
def test_classification_heads_name_the_likeliest_value_of_each_label(clip_len: int) -> None:
    heads = ClassificationHeads(4, (1, 0, 0, 1), (0, 0, 0, 1), clip_len)
    motion, app = heads(torch.zeros(3, 4))
    sizes = [16, 8, 16, 8, clip_len - 1, clip_len - 1, 8]  # u1p u1o v1p v1o ug vg gc
    assert (motion.shape, app.shape) == ((3, sum(sizes[:-1])), (3, 8))
    wanted = torch.tensor([[1, 1, 1, 1, 1, 1, 1], sizes, [3, 8, 16, 2, 7, 5, 6]])
    logits = [torch.eye(n)[wanted[:, i] - 1] for i, n in enumerate(sizes)]
    predicted = torch.cat(logits, dim=1)
    assert torch.equal(heads.values(predicted), wanted)
    labels = heads.labels(predicted)
    assert torch.equal(labels[:, heads.columns], wanted)
    assert labels.count_nonzero() == 3 * 7  # other labels: not learned


@pytest.mark.parametrize("clip_len", [16, 2])
def test_geometric_heads_name_the_value_whose_point_is_nearest(clip_len: int) -> None:
    heads = GeometricHeads(4, (1, 0, 0, 1), (0, 0, 0, 1), clip_len)
    motion, app = heads(torch.zeros(3, 4))
    assert (motion.shape, app.shape) == ((3, 2 + 2 + 2 + 2 + 1 + 1), (3, 3))
    wanted = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [3, 8, 16, 2, 7, 5, 6], [9, 4, 2, 7, 15, 1, 8]])
    most = [LABELS[column].classes(clip_len) for column in heads.columns]
    wanted = wanted.minimum(torch.tensor(most))
    meant = [
        heads.points(column, wanted.device)[wanted[:, i] - 1]
        for i, column in enumerate(heads.columns)
    ]
    predicted = torch.cat(meant, dim=1)
    for near in (predicted, 0.95 * predicted, predicted + 0.05):
        assert torch.equal(heads.values(near), wanted)
    assert torch.equal(heads.labels(predicted)[:, heads.columns], wanted)
    assert set(heads.labels(predicted * torch.nan)[:, heads.columns].flatten().tolist()) == {1}


def test_points_asked_for_while_nothing_is_learned_can_be_learned_from() -> None:
    heads = GeometricHeads(4, clip_len=37)
    with torch.inference_mode():
        heads.values(torch.cat(heads(torch.zeros(1, 4)), dim=1))
    motion, app = heads(torch.ones(2, 4))
    sum(GeometricLoss(heads)(motion, app, torch.ones(2, 27, dtype=torch.int64), 2)).backward()
    assert heads.motion.weight.grad.abs().sum() > 0


def test_regression_heads_round_to_the_nearest_value_there_is() -> None:
    heads = StatisticsHeads(4, (1, 0, 0, 0), (0, 0, 0, 0))
    labels = heads.labels(torch.tensor([[-3.0, 8.4, 16.6, torch.nan]]))
    assert labels[0, heads.columns].tolist() == [1, 8, 16, 1]
