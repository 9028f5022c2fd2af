"""R3D, R(2+1)D, S3D-G and the published checkpoints, against counts and a plain restatement."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import BACKBONES
from model.networks.backbone import Backbone
from model.networks.published import PIXELS, from_state_dict, is_published
from model.training import checkpoint


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def clip(n: int = 1, t: int = 16, s: int = 112) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, t, s, s, 3), dtype=torch.uint8, generator=generator)


def randomise(net: nn.Module) -> None:
    """Weights and running statistics that no layer treats as a no-op."""
    generator = torch.Generator().manual_seed(2)
    for name, tensor in net.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.ndim == 1:
            tensor.normal_(0.2, 0.3, generator=generator)


def factored(i: int, o: int, t: int, k: int) -> tuple[int, int]:
    """Parameters and middle channels of a split convolution (Tran et al. 2018, section 3.5)."""
    m = (t * k * k * i * o) // (k * k * i + t * o)
    return i * m * k * k + 2 * m + m * o * t, m


def residual_net(blocks: int, convolution) -> int:
    """Parameters of R3D or R(2+1)D, counted from their layer list."""
    total = convolution(3, 64, 3, 7) + 2 * 64
    for i, o in [(64, 64), (64, 128), (128, 256), (256, 512)]:
        total += convolution(i, o, 3, 3) + convolution(o, o, 3, 3) + 4 * o
        if i != o:
            total += convolution(i, o, 1, 1) + 2 * o
        total += (blocks - 1) * (2 * convolution(o, o, 3, 3) + 4 * o)
    return total


def test_residual_networks_have_the_size_of_their_layer_list() -> None:
    def whole(i: int, o: int, t: int, k: int) -> int:
        return i * o * t * k * k

    def split(i: int, o: int, t: int, k: int) -> int:
        return factored(i, o, t, k)[0]

    assert parameters(BACKBONES["r3d"]()) == residual_net(1, whole)
    assert parameters(BACKBONES["r21d"]()) == residual_net(1, split)
    assert parameters(BACKBONES["r21d18"]()) == residual_net(2, split)
    # torchvision's r3d_18 has 33,371,472 parameters, 400 x 513 of them in its classifier.
    assert parameters(BACKBONES["r3d18"]()) == 33_371_472 - 400 * 513 == residual_net(2, whole)


def test_s3dg_is_s3d_and_its_gates() -> None:
    """torchvision's s3d has 8,320,048 parameters, 400 x 1025 of them in its classifier."""
    gated = [192]  # conv2, then the four branches of each block
    gated += [64, 128, 32, 32, 128, 192, 96, 64]
    gated += [192, 208, 48, 64, 160, 224, 64, 64, 128, 256, 64, 64, 112, 288, 64, 64]
    gated += [256, 320, 128, 128] * 2 + [384, 384, 128, 128]
    s3d = 8_320_048 - 400 * 1025
    assert parameters(BACKBONES["s3dg"]()) == s3d + sum(c * c for c in gated)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        (
            "r3d",
            [(6, 16, 56, 56), (6, 16, 56, 56), (13, 8, 28, 28), (26, 4, 14, 14), (51, 2, 7, 7)],
        ),
        ("s3dg", [(6, 8, 56, 56), (19, 8, 28, 28), (48, 8, 14, 14), (84, 4, 7, 7), (102, 2, 3, 3)]),
    ],
)
def test_feature_maps(name: str, shapes: list[tuple[int, ...]]) -> None:
    backbone = BACKBONES[name](width=0.1).eval()
    with torch.no_grad():
        assert [tuple(backbone.features(clip(), s).shape[1:]) for s in backbone.stages] == shapes


def test_s3dg_takes_64_frames_of_224() -> None:
    backbone = BACKBONES["s3dg"](width=0.02).eval()
    with torch.no_grad():
        assert backbone.features(clip(1, 64, 224)).shape[2:] == (8, 7, 7)


def test_s3dg_gates_depend_on_the_whole_clip() -> None:
    gate = BACKBONES["s3dg"](width=0.1).conv2[-1]
    x = torch.rand(1, 19, 2, 3, 3)
    expected = (
        x
        * torch.sigmoid(gate.weight.weight[..., 0, 0, 0] @ x[0].flatten(1).mean(1))[
            None, :, None, None, None
        ]
    )
    torch.testing.assert_close(gate(x), expected)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """With one thread torch computes small convolutions by a path that ignores the layout."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", [n for n in BACKBONES if not n.endswith("18")])
def test_channels_last_and_compile_change_nothing(name: str) -> None:
    backbone = BACKBONES[name](width=0.1).eval()
    randomise(backbone)
    frames = clip(2, 16, 48)
    with torch.no_grad():
        expected = backbone.features(frames)
        backbone.to(memory_format=torch.channels_last_3d)
        result = backbone.features(frames)
        assert result.is_contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
        # One graph, no breaks; what the backend makes of it is torch's business.
        compiled = torch.compile(backbone, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(frames), expected.mean((2, 3, 4)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_parameter_learns(name: str) -> None:
    backbone = BACKBONES[name](width=0.05)
    backbone(clip(2, 16, 48)).square().sum().backward()
    still = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias before batch norm has no effect, up to rounding.
    assert [n for n in still if "bias" not in n] == []


# The published networks, restated from their layer list as functions of the published state_dict.


def conv(x: Tensor, w: dict[str, Tensor], key: str, stride: int | tuple[int, ...] = 1) -> Tensor:
    weight = w[f"{key}.weight"]
    padding = [k // 2 for k in weight.shape[2:]]
    return F.conv3d(x, weight, w.get(f"{key}.bias"), stride=stride, padding=padding)


def norm(x: Tensor, w: dict[str, Tensor], key: str) -> Tensor:
    mean, var = w[f"{key}.running_mean"], w[f"{key}.running_var"]
    return F.batch_norm(x, mean, var, w[f"{key}.weight"], w[f"{key}.bias"])


def heads(x: Tensor, w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    x = x.mean((2, 3, 4))
    return tuple(
        F.linear(x, w[f"{k}.weight"], w[f"{k}.bias"]) for k in ("motion_linear", "app_linear")
    )


def published_c3d(x: Tensor, w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    for layer, pool in [
        ("1", 1),
        ("2", 2),
        ("3a", 0),
        ("3b", 2),
        ("4a", 0),
        ("4b", 2),
        ("5a", 0),
        ("5b", 0),
    ]:
        x = norm(conv(x, w, f"conv{layer}"), w, f"bn{layer}").relu()
        if pool:
            x = F.max_pool3d(x, (pool, 2, 2))
    return heads(x, w)


def published_resnet(x: Tensor, w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    def convolution(x: Tensor, key: str, stride: tuple[int, int, int]) -> Tensor:
        if f"{key}.temporal_spatial_conv.weight" in w:
            return conv(x, w, f"{key}.temporal_spatial_conv", stride)
        x = conv(x, w, f"{key}.spatial_conv", (1, *stride[1:]))
        x = norm(x, w, f"{key}.bn").relu()
        return conv(x, w, f"{key}.temporal_conv", (stride[0], 1, 1))

    x = norm(convolution(x, "conv1", (1, 2, 2)), w, "bn1").relu()
    for stage in ("conv2", "conv3", "conv4", "conv5"):
        more = {key.split(".")[2] for key in w if key.startswith(f"{stage}.blocks.")}
        for block in [f"{stage}.block1", *(f"{stage}.blocks.{i}" for i in sorted(more))]:
            down = f"{block}.downsamplebn.weight" in w
            stride = (2, 2, 2) if down else (1, 1, 1)
            y = norm(convolution(x, f"{block}.conv1", stride), w, f"{block}.bn1").relu()
            y = norm(convolution(y, f"{block}.conv2", (1, 1, 1)), w, f"{block}.bn2")
            if down:
                x = norm(
                    convolution(x, f"{block}.downsampleconv", stride), w, f"{block}.downsamplebn"
                )
            x = (x + y).relu()
    return heads(x, w)


def published_weights(name: str, depth: int, c: int) -> dict[str, Tensor]:
    """A random state_dict with the published key names, `c` channels in the first stage."""
    generator = torch.Generator().manual_seed(3)
    w: dict[str, Tensor] = {}

    def add(key: str, *shape: int) -> None:
        fan_in = max(1, torch.Size(shape[1:]).numel())
        w[key] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5

    def add_norm(key: str, o: int) -> None:
        for what in ("weight", "bias", "running_mean"):
            w[f"{key}.{what}"] = torch.randn(o, generator=generator) * 0.3 + (what == "weight")
        w[f"{key}.running_var"] = torch.rand(o, generator=generator) + 0.5
        w[f"{key}.num_batches_tracked"] = torch.tensor(7)

    def add_conv(key: str, i: int, o: int, t: int, k: int) -> None:
        if name == "r3d":
            add(f"{key}.temporal_spatial_conv.weight", o, i, t, k, k)
        else:
            _, m = factored(i, o, t, k)
            add(f"{key}.spatial_conv.weight", m, i, 1, k, k)
            add_norm(f"{key}.bn", m)
            add(f"{key}.temporal_conv.weight", o, m, t, 1, 1)

    if name == "c3d":
        sizes = [3, c, 2 * c, 4 * c, 4 * c, 8 * c, 8 * c, 8 * c, 8 * c]
        layers = ("1", "2", "3a", "3b", "4a", "4b", "5a", "5b")
        for layer, i, o in zip(layers, sizes, sizes[1:], strict=False):
            add(f"conv{layer}.weight", o, i, 3, 3, 3)
            add(f"conv{layer}.bias", o)
            add_norm(f"bn{layer}", o)
    else:
        add_conv("conv1", 3, c, 3, 7)
        add_norm("bn1", c)
        for stage, i, o in [(2, c, c), (3, c, 2 * c), (4, 2 * c, 4 * c), (5, 4 * c, 8 * c)]:
            blocks = [f"conv{stage}.block1", *(f"conv{stage}.blocks.{b}" for b in range(depth - 1))]
            for block in blocks:
                first = i if block.endswith("block1") else o
                add_conv(f"{block}.conv1", first, o, 3, 3)
                add_conv(f"{block}.conv2", o, o, 3, 3)
                add_norm(f"{block}.bn1", o)
                add_norm(f"{block}.bn2", o)
                if first != o:
                    add_conv(f"{block}.downsampleconv", first, o, 1, 1)
                    add_norm(f"{block}.downsamplebn", o)
    for head, outputs in [("motion_linear", 14), ("app_linear", 13)]:
        add(f"{head}.weight", outputs, 8 * c)
        add(f"{head}.bias", outputs)
    return w


@pytest.mark.parametrize(
    ("name", "depth"), [("c3d", 1), ("r3d", 1), ("r21d", 1), ("r3d", 2), ("r21d", 2)]
)
def test_published_checkpoints_compute_what_they_did(name: str, depth: int, tmp_path: Path) -> None:
    weights = published_weights(name, depth, c=4)
    path = tmp_path / "C3D_epoch-18.pth.tar"
    saved = {"epoch": 17, "state_dict": weights, "opt_dict": {}}
    torch.save(saved, path, _use_new_zipfile_serialization=depth > 1)  # older torch wrote no zip
    net = from_state_dict(checkpoint.read(path)["state_dict"]).eval()
    assert net.backbone.pixels == PIXELS
    frames = clip(2, 16, 48)
    bgr = frames.flip(-1).permute(0, 4, 1, 2, 3).float()  # as published: cv2's order, 0..255
    restated = published_c3d if name == "c3d" else published_resnet
    with torch.no_grad():
        for result, expected in zip(net(frames), restated(bgr, weights), strict=True):
            torch.testing.assert_close(
                result, expected, rtol=1e-4, atol=1e-4 * expected.abs().max()
            )
    assert isinstance(net.backbone, Backbone)
    assert type(net.backbone) is BACKBONES[name + ("18" if depth == 2 else "")]


def test_other_checkpoints_are_refused() -> None:
    assert not is_published({"state_dict": {"fc.weight": torch.zeros(1)}})
    assert not is_published({"model": {}})
    weights = published_weights("r3d", 1, c=4)
    del weights["bn1.weight"]
    with pytest.raises(RuntimeError, match=r"backbone\.conv1\.1\.weight"):
        from_state_dict(weights)
    with pytest.raises(ValueError, match="no published network"):
        from_state_dict({"motion_linear.weight": torch.zeros(14, 8)})
