"""The student's two halves: sizes by closed formula, shapes, initialisation, nothing dead."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from anomaly_bench.layers.blocks import mirror_plan
from anomaly_bench.layers.bottleneck import MultiScaleFusion, OneClassBottleneck
from anomaly_bench.layers.decoder import ReverseDecoder


@dataclass(frozen=True)
class Mirror:
    """One row of the published description: expansion e, blocks of OCE and decoder, channels of a 3x3 per 64 planes."""

    expansion: int
    embedding: int
    decoder: tuple[int, int, int]
    base: int = 64

    @property
    def widths(self) -> tuple[int, int, int]:
        return 64 * self.expansion, 128 * self.expansion, 256 * self.expansion


MIRRORS = {
    "wide_resnet50_2": Mirror(4, 3, (3, 4, 6), base=128),
    "resnet50": Mirror(4, 3, (3, 4, 6)),
    "resnet50_caffe": Mirror(4, 3, (3, 4, 6)),
    "resnet34": Mirror(1, 3, (3, 4, 6)),
    "resnet18": Mirror(1, 2, (2, 2, 2)),
}


def cost(side: int, kernel: int, c_in: int, c_out: int) -> tuple[int, int]:
    """Parameters of a bias-free convolution with its BN, and its multiply-accumulates for a `side` x `side` map.

    `side` is of the output, but of the input where the convolution is transposed.
    """
    weights = kernel * kernel * c_in * c_out
    return weights + 2 * c_out, weights * side * side


def total(layers: list[tuple[int, int]]) -> tuple[int, int]:
    return sum(parameters for parameters, _ in layers), sum(macs for _, macs in layers)


def bottleneck_cost(mirror: Mirror) -> tuple[int, int]:
    """MFF and OCE for images of 256x256: maps of 64, 32, 16 in, 8 out."""
    e = mirror.expansion
    layers = [cost(32, 3, 64 * e, 128 * e), cost(16, 3, 128 * e, 256 * e), cost(16, 3, 128 * e, 256 * e)]
    if e == 1:
        layers += [cost(8, 3, 768, 512), cost(8, 3, 512, 512), cost(8, 1, 768, 512)]
        layers += [cost(8, 3, 512, 512)] * 2 * (mirror.embedding - 1)
        return total(layers)
    width = 512 * mirror.base // 64
    layers += [cost(16, 1, 3072, width), cost(8, 3, width, width), cost(8, 1, width, 2048), cost(8, 1, 3072, 2048)]
    layers += [cost(8, 1, 2048, width), cost(8, 3, width, width), cost(8, 1, width, 2048)] * (mirror.embedding - 1)
    return total(layers)


def decoder_cost(mirror: Mirror) -> tuple[int, int]:
    """Three stages of planes 256, 128, 64 for a bottleneck map of 8x8; the first block of each doubles it."""
    e, layers = mirror.expansion, []
    c_in = 512 * e
    for planes, side, depth in zip((256, 128, 64), (8, 16, 32), mirror.decoder, strict=True):
        layers.append(cost(side, 2, c_in, planes * e))  # shortcut
        if e == 1:
            layers += [cost(side, 2, c_in, planes), cost(2 * side, 3, planes, planes)]
            layers += [cost(2 * side, 3, planes, planes)] * 2 * (depth - 1)
        else:
            width = planes * mirror.base // 64
            last = cost(2 * side, 1, width, planes * 4)
            layers += [cost(side, 1, c_in, width), cost(side, 2, width, width), last]
            layers += [cost(2 * side, 1, planes * 4, width), cost(2 * side, 3, width, width), last] * (depth - 1)
        c_in = planes * e
    return total(layers)


def build(name: str, widths: tuple[int, int, int]) -> tuple[OneClassBottleneck, ReverseDecoder]:
    torch.manual_seed(0)
    return OneClassBottleneck(widths, mirror_plan(name)), ReverseDecoder(widths, mirror_plan(name))


def features(widths: tuple[int, int, int], side: int, count: int = 2) -> list[Tensor]:
    return [torch.randn(count, width, side >> k, side >> k).relu() for k, width in enumerate(widths)]


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", MIRRORS)
def test_size_and_cost_follow_from_the_list_of_layers(name: str) -> None:
    mirror = MIRRORS[name]
    with torch.device("meta"):
        bottleneck, decoder = build(name, mirror.widths)
        maps = features(mirror.widths, 64, count=1)
        with FlopCounterMode(display=False) as whole_bottleneck:
            z = bottleneck(maps)
        with FlopCounterMode(display=False) as whole_decoder:
            decoder(z)
    # The counter counts a multiplication and an addition as two.
    assert (parameters(bottleneck), whole_bottleneck.get_total_flops() // 2) == bottleneck_cost(mirror)
    assert (parameters(decoder), whole_decoder.get_total_flops() // 2) == decoder_cost(mirror)


@pytest.mark.parametrize(
    ("name", "bottleneck", "decoder"),
    [
        ("wide_resnet50_2", (67.28 - 8.39, 7.3), (24.92, 11.1)),  # the authors' 67.28 M hold 8.39 M that never run
        ("resnet50", (30.8, None), (15.8, None)),
        ("resnet18", (11.7, 0.9), (3.7, 1.6)),
    ],
)
def test_the_closed_formulas_give_the_published_sizes(
    name: str, bottleneck: tuple[float, float | None], decoder: tuple[float, float | None]
) -> None:
    """In millions of parameters and, where known, thousand millions of multiply-accumulates."""
    for (millions, giga), counted in (
        (bottleneck, bottleneck_cost(MIRRORS[name])),
        (decoder, decoder_cost(MIRRORS[name])),
    ):
        half_a_digit = 0.005 if name == "wide_resnet50_2" else 0.05
        assert counted[0] / 1e6 == pytest.approx(millions, abs=half_a_digit)
        assert giga is None or counted[1] / 1e9 == pytest.approx(giga, abs=0.05)


class Written:
    """The published list of layers as a program: takes a module's convolutions and batch norms in their order."""

    def __init__(self, module: nn.Module, mirror: Mirror) -> None:
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
        norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
        self.pairs, self.mirror = iter(zip(layers, norms, strict=True)), mirror

    def layer(self, x: Tensor, kernel: int, stride: int = 1, *, up: bool = False) -> Tensor:
        """Convolution and BN (evaluation mode)."""
        convolution, norm = next(self.pairs)
        assert convolution.kernel_size == (kernel, kernel)
        if up:
            x = functional.conv_transpose2d(x, convolution.weight, stride=2)
        else:
            x = functional.conv2d(x, convolution.weight, stride=stride, padding=kernel // 2)
        mean, variance, gamma, beta = (
            values.view(1, -1, 1, 1) for values in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        return gamma * (x - mean) / (variance + 1e-5).sqrt() + beta

    def block(self, x: Tensor, resampling: str) -> Tensor:
        """`resampling`: "down", "up", or "" where the shortcut is the identity."""
        up, stride = resampling == "up", 2 if resampling == "down" else 1
        if self.mirror.expansion == 1:
            y = self.layer(x, 2 if up else 3, stride, up=up).relu()
            y = self.layer(y, 3)
        else:
            y = self.layer(x, 1).relu()
            y = self.layer(y, 2 if up else 3, stride, up=up).relu()
            y = self.layer(y, 1)
        return (y + (self.layer(x, 2 if up else 1, stride, up=up) if resampling else x)).relu()

    def stage(self, x: Tensor, resampling: str, blocks: int) -> Tensor:
        for index in range(blocks):
            x = self.block(x, "" if index else resampling)
        return x

    def bottleneck(self, x1: Tensor, x2: Tensor, x3: Tensor) -> Tensor:
        x1 = self.layer(self.layer(x1, 3, 2).relu(), 3, 2).relu()
        x2 = self.layer(x2, 3, 2).relu()
        return self.stage(torch.cat([x1, x2, x3], dim=1), "down", self.mirror.embedding)

    def decoder(self, z: Tensor) -> list[Tensor]:
        stages = [z]
        for depth in self.mirror.decoder:
            stages.append(self.stage(stages[-1], "up", depth))
        return stages[:0:-1]  # shallow first, without z


@pytest.mark.parametrize("name", MIRRORS)
def test_forward_runs_the_list_of_layers_in_its_order(name: str) -> None:
    parts = [part.double().eval() for part in build(name, (4, 8, 16))]
    for part in parts:
        for layer in part.modules():
            if isinstance(layer, nn.BatchNorm2d):  # as if trained: nothing is 0 or 1 any more
                nn.init.normal_(layer.running_mean, std=0.3)  # type: ignore[arg-type]
                nn.init.uniform_(layer.running_var, 0.5, 2)  # type: ignore[arg-type]
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, std=0.3)
    bottleneck, decoder = parts
    given = [stage.double() for stage in features((4, 8, 16), side=8)]
    with torch.no_grad():
        expected = Written(bottleneck, MIRRORS[name]).bottleneck(*given)
        torch.testing.assert_close(bottleneck(given), expected)
        torch.testing.assert_close(decoder(expected), Written(decoder, MIRRORS[name]).decoder(expected))


@pytest.mark.parametrize("side", [64, 24])  # images of 256 and of 96
@pytest.mark.parametrize("name", [*MIRRORS, "tf_efficientnet_lite0"])
def test_decoder_gives_back_the_shapes_that_the_bottleneck_took(name: str, side: int) -> None:
    widths = MIRRORS[name].widths if name in MIRRORS else (24, 40, 112)
    with torch.device("meta"):
        bottleneck, decoder = build(name, widths)
        given = features(widths, side)
        z = bottleneck(given)
        rebuilt = decoder(z)
    assert z.shape == (2, 2 * widths[2], side // 8, side // 8)
    assert [tuple(stage.shape) for stage in rebuilt] == [tuple(stage.shape) for stage in given]


def test_a_network_that_rd4ad_never_mirrored_gets_the_blocks_of_resnet18() -> None:
    assert mirror_plan("tf_efficientnet_lite0") == mirror_plan("resnet18")
    assert mirror_plan("tf_efficientnet_lite0") != mirror_plan("resnet34")


@pytest.mark.parametrize("name", MIRRORS)
def test_outputs_end_in_relu_and_every_parameter_gets_a_gradient(name: str) -> None:
    bottleneck, decoder = build(name, (8, 16, 32))
    given = features((8, 16, 32), side=16, count=3)
    kept = [stage.clone() for stage in given]
    z = bottleneck(given)
    rebuilt = decoder(z)
    for stage in (z, *rebuilt):
        assert stage.min() == 0
        assert stage.max() > 0
    torch.stack([(stage * torch.randn_like(stage)).sum() for stage in rebuilt]).sum().backward()
    for part in (bottleneck, decoder):
        dead = [n for n, p in part.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert not dead
    torch.testing.assert_close(given, kept, rtol=0, atol=0)  # no layer works in place on the teacher's features


@pytest.mark.parametrize("name", MIRRORS)
def test_no_convolution_has_a_bias_and_each_is_followed_by_a_batch_norm(name: str) -> None:
    for part in build(name, (8, 16, 32)):
        convolutions = [layer for layer in part.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
        norms = [layer for layer in part.modules() if isinstance(layer, nn.BatchNorm2d)]
        assert all(layer.bias is None for layer in convolutions)
        assert [layer.out_channels for layer in convolutions] == [layer.num_features for layer in norms]


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2"])
def test_convolutions_start_kaiming_normal_and_transposed_ones_as_pytorch_starts_them(name: str) -> None:
    bottleneck, decoder = build(name, (32, 64, 128))
    kinds = set()
    for layer in [*bottleneck.modules(), *decoder.modules()]:
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1]
            sigma, bound = math.sqrt(2 / fan_out), math.inf
        elif isinstance(layer, nn.ConvTranspose2d):
            # PyTorch draws uniformly within 1 / sqrt(fan in), and reads the fan in off the weight's second axis.
            bound = 1 / math.sqrt(layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1])
            sigma = bound / math.sqrt(3)
            assert 0.98 * bound < layer.weight.abs().max() <= bound
        elif isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()
            continue
        else:
            continue
        kinds.add(type(layer))
        five_deviations = 5 / math.sqrt(2 * layer.weight.numel())
        assert layer.weight.std().item() == pytest.approx(sigma, rel=five_deviations)
        assert abs(layer.weight.mean().item()) < 5 * sigma / math.sqrt(layer.weight.numel())
    assert kinds == {nn.Conv2d, nn.ConvTranspose2d}


SUBSETS = [(1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)]


@pytest.mark.parametrize("stages", SUBSETS)
def test_fusion_of_some_stages_is_their_part_of_the_whole_and_holds_nothing_else(stages: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    widths, given = (4, 8, 16), features((4, 8, 16), side=16)
    whole, part = MultiScaleFusion(widths).eval(), MultiScaleFusion(widths, stages).eval()
    for reduce, stage in zip(part.reduce, stages, strict=True):
        reduce.load_state_dict(whole.reduce[stage - 1].state_dict())
    nan = torch.full((), math.nan)
    seen = [feature if stage in stages else feature * nan for stage, feature in enumerate(given, start=1)]
    expected = torch.cat([whole(given).split(16, dim=1)[stage - 1] for stage in stages], dim=1)
    torch.testing.assert_close(part(seen), expected, rtol=0, atol=0)
    assert part(seen).shape == (2, part.out_channels, 4, 4)
    paths = {1: total([cost(1, 3, 4, 8), cost(1, 3, 8, 16)])[0], 2: cost(1, 3, 8, 16)[0], 3: 0}
    assert parameters(part) == sum(paths[stage] for stage in stages)


@pytest.mark.parametrize("stages", SUBSETS)
@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2"])
def test_decoder_of_some_stages_gives_those_of_the_whole_and_builds_nothing_beyond(
    name: str, stages: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    widths, plan, depths = (8, 16, 32), mirror_plan(name), MIRRORS[name].decoder
    whole, part = ReverseDecoder(widths, plan).eval(), ReverseDecoder(widths, plan, stages).eval()
    state = {key: value for key, value in whole.state_dict().items() if key in part.state_dict()}
    part.load_state_dict(state)
    z = torch.randn(2, 64, 2, 2)
    decoded = part(z)
    torch.testing.assert_close(decoded, [whole(z)[stage - 1] for stage in stages], rtol=0, atol=0)
    blocks = [block for stage in part.blocks.children() for block in stage.children()]
    assert len(blocks) == sum(depths[: 4 - min(stages)])
    torch.stack([stage.square().sum() for stage in decoded]).sum().backward()
    assert all(parameter.grad is not None for parameter in part.parameters())
