"""The FRFN against its formula, channel by channel and position by position; the loops also serve `test_frm`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anomaly_bench.layers.frfn import FRFN

Plane = list[list[float]]
Map = list[Plane]  # of one image: channel, row, column
EXACT: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-9}
SIZES = [(2, 9, 3, 5), (1, 4, 1, 2), (1, 7, 4, 3)]  # N, C, H, W; partial convolutions of 2, 1, 1 channels


def made(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def each(function: Callable[..., float], *maps: Map) -> Map:
    """A function of one number of each map, at every place."""
    return [
        [[function(*values) for values in zip(*rows, strict=True)] for rows in zip(*planes, strict=True)]
        for planes in zip(*maps, strict=True)
    ]


def gelu(x: Map) -> Map:
    """x times the normal distribution function of x."""
    return each(lambda value: value * (1 + math.erf(value / math.sqrt(2))) / 2, x)


def correlation(plane: Plane, kernel: Plane) -> Plane:
    """A 3x3 kernel centred on every position in turn, zeros outside the map."""
    height, width = len(plane), len(plane[0])
    result = [[0.0] * width for _ in range(height)]
    for y in range(height):
        for x in range(width):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if 0 <= y + dy < height and 0 <= x + dx < width:
                        result[y][x] += kernel[1 + dy][1 + dx] * plane[y + dy][x + dx]
    return result


def total(planes: Map, start: float = 0.0) -> Plane:
    return [[start + sum(values) for values in zip(*rows, strict=True)] for rows in zip(*planes, strict=True)]


def pointwise(x: Map, layer: nn.Conv2d) -> Map:
    """The same linear map of channels at every position."""
    weight = layer.weight[:, :, 0, 0].tolist()
    bias = [0.0] * len(weight) if layer.bias is None else layer.bias.tolist()
    return [
        total([[[w * value for value in row] for row in plane] for w, plane in zip(weights, x, strict=True)], b)
        for weights, b in zip(weight, bias, strict=True)
    ]


def dense_3x3(x: Map, layer: nn.Conv2d) -> Map:
    """Every output channel sums over all input channels; no bias."""
    assert layer.bias is None
    return [total([correlation(p, k) for p, k in zip(x, kernels, strict=True)]) for kernels in layer.weight.tolist()]


def depthwise_3x3(x: Map, layer: nn.Conv2d) -> Map:
    """Every channel for itself."""
    kernels = layer.weight[:, 0].tolist()
    bias = [0.0] * len(kernels) if layer.bias is None else layer.bias.tolist()
    return [total([correlation(p, k)], b) for p, k, b in zip(x, kernels, bias, strict=True)]


def naive_frfn(x: Map, block: FRFN) -> Map:
    """Partial 3x3 of the first quarter; C -> 2h, GELU, halves a and b; a = GELU(DWConv a); h -> C of a * b."""
    quarter = len(x) // 4
    x = dense_3x3(x[:quarter], block.partial) + x[quarter:]
    a, b = gelu(pointwise(x, block.to_a)), gelu(pointwise(x, block.to_b))
    a = gelu(depthwise_3x3(a, block.depthwise))
    return pointwise(each(lambda value, gate: value * gate, a, b), block.out)


@pytest.mark.parametrize("shape", SIZES)
def test_frfn_is_its_formula_position_by_position(shape: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    block = FRFN(shape[1], 3).double()
    x = made(*shape)
    expected = [naive_frfn(image, block) for image in x.tolist()]
    torch.testing.assert_close(block(x), torch.tensor(expected, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize(("channels", "hidden"), [(64, 128), (24, 48), (7, 5)])
def test_only_the_partial_convolution_has_no_bias_and_nothing_else_is_held(channels: int, hidden: int) -> None:
    block, quarter = FRFN(channels, hidden), channels // 4
    linear_in, linear_out = (channels + 1) * 2 * hidden, (hidden + 1) * channels
    expected = 9 * quarter * quarter + linear_in + 10 * hidden + linear_out
    assert sum(parameter.numel() for parameter in block.parameters()) == expected
    assert not list(block.buffers())


def test_only_the_first_quarter_of_the_channels_is_mixed_with_its_neighbours_before_the_linear_layer() -> None:
    torch.manual_seed(0)
    block = FRFN(8, 5).double()
    nn.init.zeros_(block.depthwise.weight)  # leaves the partial convolution as the only way between positions
    nn.init.ones_(block.depthwise.bias)
    for channel, reach in ((0, 9), (1, 9), (2, 1), (7, 1)):
        x = made(1, 8, 5, 5)
        moved = x.clone()
        moved[0, channel, 2, 2] += 1
        changed = (block(moved) - block(x)).abs().sum(dim=1) > 1e-9
        assert changed.sum() == reach
        assert changed[0, 2, 2]


def test_the_two_halves_do_not_play_the_same_part() -> None:
    torch.manual_seed(0)
    block, x = FRFN(8, 5).double(), made(1, 8, 3, 5)
    before = block(x)
    block.to_a, block.to_b = block.to_b, block.to_a
    assert (block(x) - before).abs().max() > 1e-3
