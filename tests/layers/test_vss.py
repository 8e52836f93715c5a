"""The visual state-space block against its formulas in Python's own numbers: orders, parameters, precision."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anomaly_bench.layers import vss
from anomaly_bench.layers.selective_scan import selective_scan
from anomaly_bench.layers.vss import SS2D, VSSBlock, cross_merge, cross_scan

EXACT = {"rtol": 1e-6, "atol": 1e-10}
Position = tuple[int, int]


def made(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stirred(module: nn.Module) -> Any:
    """float64, and no parameter at a value that would hide it."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.double().parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return module


def orders(height: int, width: int) -> list[list[Position]]:
    """The four ways over a map: rows, columns, and both from their ends."""
    rows = [(h, w) for h in range(height) for w in range(width)]
    columns = [(h, w) for w in range(width) for h in range(height)]
    return [rows, columns, rows[::-1], columns[::-1]]


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def linear(weight: list[list[float]], x: list[float]) -> list[float]:
    return [sum(w * value for w, value in zip(row, x, strict=True)) for row in weight]


def layer_norm(x: list[float], layer: nn.LayerNorm, eps: float) -> list[float]:
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    scale = zip(x, layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [(value - mean) / math.sqrt(variance + eps) * weight + bias for value, weight, bias in scale]


def depthwise(x: dict[Position, list[float]], layer: nn.Conv2d) -> dict[Position, list[float]]:
    """3x3 with bias, zeros around the map, each channel for itself; then SiLU."""
    assert layer.bias is not None
    kernel, bias = layer.weight[:, 0].tolist(), layer.bias.tolist()
    result = {}
    for h, w in x:
        result[h, w] = [
            silu(
                bias[r]
                + sum(
                    kernel[r][i + 1][j + 1] * x[h + i, w + j][r]
                    for i, j in itertools.product((-1, 0, 1), repeat=2)
                    if (h + i, w + j) in x
                )
            )
            for r in range(len(bias))
        ]
    return result


def scan_along(order: list[Position], x: dict[Position, list[float]], block: SS2D, k: int) -> dict[Position, Any]:
    """One direction: (r, B, C) = Linear(x), delta = softplus(Linear(r) + bias), A = -exp(A_log), and the recurrence."""
    rank, states = block.step_proj.shape[2], block.A_log.shape[2]
    project, step, bias = block.x_proj[k].tolist(), block.step_proj[k].tolist(), block.step_bias[k].tolist()
    rates, skip = (-block.A_log[k].exp()).tolist(), block.D[k].tolist()
    state = [[0.0] * states for _ in skip]
    result = {}
    for position in order:
        u, mixed = x[position], linear(project, x[position])
        r, b, c = mixed[:rank], mixed[rank : rank + states], mixed[rank + states :]
        delta = [math.log1p(math.exp(value + shift)) for value, shift in zip(linear(step, r), bias, strict=True)]
        y = []
        for i, value in enumerate(u):
            state[i] = [math.exp(delta[i] * rates[i][n]) * state[i][n] + delta[i] * value * b[n] for n in range(states)]
            y.append(sum(c[n] * state[i][n] for n in range(states)) + skip[i] * value)
        result[position] = y
    return result


def naive_ss2d(image: list[list[list[float]]], block: Any) -> Tensor:
    """VM-UNet's SS2D of one image, a list of channels of rows."""
    height, width, inner = len(image[0]), len(image[0][0]), block.D.shape[1]
    positions = orders(height, width)[0]
    projected = {
        (h, w): linear(block.in_proj.weight.flatten(1).tolist(), [plane[h][w] for plane in image]) for h, w in positions
    }
    x = depthwise({position: values[:inner] for position, values in projected.items()}, block.depthwise)
    scanned = [scan_along(order, x, block, k) for k, order in enumerate(orders(height, width))]
    out = torch.empty(len(image), height, width, dtype=torch.float64)
    for h, w in positions:
        total = [sum(y[h, w][r] for y in scanned) for r in range(inner)]
        gate = [silu(value) for value in projected[h, w][inner:]]
        gated = [a * b for a, b in zip(layer_norm(total, block.norm, 1e-5), gate, strict=True)]
        out[:, h, w] = torch.tensor(linear(block.out_proj.weight.flatten(1).tolist(), gated), dtype=torch.float64)
    return out


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 3, 5), (17, 2, 1), (2, 1, 1)])
@torch.no_grad()
def test_ss2d_is_vm_unets_formula_position_by_position(channels: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    block, x = stirred(SS2D(channels, d_state=3)), made(2, channels, height, width)
    expected = torch.stack([naive_ss2d(image, block) for image in x.tolist()])
    torch.testing.assert_close(block(x), expected, **EXACT)


@torch.no_grad()
def test_the_block_is_x_plus_ss2d_of_the_layer_norm_over_channels() -> None:
    torch.manual_seed(0)
    block, x = stirred(VSSBlock(3, d_state=2, expand=3)), 1e-3 * made(2, 3, 2, 3)  # so small that eps counts
    normed = torch.empty_like(x)
    for n, h, w in itertools.product(range(2), range(2), range(3)):
        normed[n, :, h, w] = torch.tensor(layer_norm(x[n, :, h, w].tolist(), block.norm, 1e-6), dtype=torch.float64)
    expected = x + torch.stack([naive_ss2d(image, block.scan) for image in normed.tolist()])
    torch.testing.assert_close(block(x), expected, **EXACT)


@pytest.mark.parametrize(("height", "width"), [(2, 3), (4, 4), (1, 5), (1, 1)])
def test_cross_scan_walks_rows_columns_and_both_from_the_end(height: int, width: int) -> None:
    x = made(2, 3, height, width)
    sequences = cross_scan(x)
    for k, order in enumerate(orders(height, width)):
        expected = torch.stack([x[:, :, h, w] for h, w in order], dim=1)
        assert torch.equal(sequences[:, k], expected), k


@pytest.mark.parametrize(("height", "width"), [(2, 3), (4, 4), (1, 5), (1, 1)])
def test_cross_merge_sums_each_direction_at_its_own_places(height: int, width: int) -> None:
    y = made(2, 4, height * width, 3)
    expected = torch.zeros(2, 3, height, width, dtype=torch.float64)
    for k, order in enumerate(orders(height, width)):
        for step, (h, w) in enumerate(order):
            expected[:, :, h, w] += y[:, k, step]
    torch.testing.assert_close(cross_merge(y, height, width), expected)


@pytest.mark.parametrize("direction", range(4))
def test_an_impulse_reaches_just_what_comes_after_it_on_its_directions_way(direction: int) -> None:
    height, width, source = 3, 4, (1, 2)
    x = torch.zeros(1, 1, height, width, dtype=torch.float64)
    x[0, 0, source[0], source[1]] = 1
    sequences = cross_scan(x)
    delta, ones = torch.full_like(sequences, 0.1), torch.ones_like(sequences)
    rates, skip = torch.full((4, 1, 1), -1.0, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    y = selective_scan(sequences, delta, rates, ones, ones, skip)
    others = [k for k in range(4) if k != direction]
    y[:, others] = 0
    reached = {(h, w) for h, w in cross_merge(y, height, width)[0, 0].nonzero().tolist()}
    before_or_after = {
        0: lambda h, w: (h, w) >= source,
        1: lambda h, w: (w, h) >= source[::-1],
        2: lambda h, w: (h, w) <= source,
        3: lambda h, w: (w, h) <= source[::-1],
    }[direction]
    assert reached == {(h, w) for h in range(height) for w in range(width) if before_or_after(h, w)}


@torch.no_grad()
def test_no_two_directions_of_ss2d_may_be_swapped() -> None:
    torch.manual_seed(0)
    block, x = stirred(SS2D(2, d_state=2)), made(1, 2, 3, 4)
    right = block(x)
    for one, other in itertools.combinations(range(4), 2):
        order = list(range(4))
        order[one], order[other] = other, one
        swapped = stirred(SS2D(2, d_state=2))
        swapped.load_state_dict(block.state_dict())
        for name in ("x_proj", "step_proj", "step_bias", "A_log", "D"):
            getattr(swapped, name).data = getattr(block, name)[order].clone()
        assert (swapped(x) - right).abs().max() > 1e-5


@pytest.mark.parametrize(("channels", "thousands"), [(64, 56), (128, 169), (256, 568)])
def test_the_block_has_its_known_number_of_parameters(channels: int, thousands: int) -> None:
    with torch.device("meta"):
        block = VSSBlock(channels, d_state=16, expand=2)
    d, rank = 2 * channels, math.ceil(channels / 16)
    each_direction = d * (rank + 32) + rank * d + d + 16 * d + d
    ss2d = channels * 2 * d + 10 * d + 4 * each_direction + 2 * d + d * channels
    assert sum(parameter.numel() for parameter in block.parameters()) == ss2d + 2 * channels
    assert (ss2d + 2 * channels) / 1e3 == pytest.approx(thousands, abs=0.5)


def test_only_the_rates_and_the_skip_ask_to_be_left_out_of_weight_decay() -> None:
    named = VSSBlock(16).named_parameters()
    assert {name for name, parameter in named if getattr(parameter, "no_weight_decay", False)} == {
        "scan.A_log",
        "scan.D",
    }


def test_parameters_start_as_vm_unet_starts_them() -> None:
    torch.manual_seed(0)
    block = SS2D(128, d_state=5)
    torch.testing.assert_close(block.A_log.exp(), torch.arange(1.0, 6).expand(4, 256, 5))
    assert (block.D == 1).all()
    bound = 8**-0.5  # dt_rank = 128 / 16
    assert 0.99 * bound < block.step_proj.abs().max() <= bound
    assert block.step_proj.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert 0.99 * 256**-0.5 < block.x_proj.abs().max() <= 256**-0.5  # a Linear's of 256 inputs
    log_steps = nn.functional.softplus(block.step_bias).log10()
    assert -3 <= log_steps.min() < -2.98
    assert -1.02 < log_steps.max() <= -1
    assert log_steps.mean().item() == pytest.approx(-2, abs=0.06)  # log-uniform
    assert log_steps.std().item() == pytest.approx(2 / math.sqrt(12), rel=0.05)
    assert not torch.equal(block.step_bias[0], block.step_bias[1])


def test_rates_are_held_at_1e4_and_leave_no_gradient_infinite() -> None:
    torch.manual_seed(0)
    block, x = stirred(SS2D(3, d_state=2)), made(1, 3, 2, 3)
    nn.init.constant_(block.step_bias, -10)  # steps of 5e-5, for which rates of 1e3, 1e4 and more all differ
    results = []
    for value in (math.log(1e4), 20.0, 1000.0, math.log(1e3)):
        nn.init.constant_(block.A_log, value)
        results.append(block(x))
        block.zero_grad()
        results[-1].square().sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in block.parameters())
    torch.testing.assert_close(results[1:3], [results[0]] * 2, **EXACT)
    assert (results[3] - results[0]).abs().max() > 1e-6


def test_under_autocast_step_sizes_rates_and_the_scan_are_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block, x = VSSBlock(32, d_state=3), made(2, 32, 3, 4).float()
    expected, seen = block(x), []

    def spy(u: Tensor, delta: Tensor, *rest: Tensor) -> Tensor:
        y = selective_scan(u, delta, *rest)
        seen.extend([delta.dtype, rest[0].dtype, y.dtype])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rank = torch.einsum("nglr,gor->nglo", u, block.scan.x_proj)[..., :2].float()
        steps = (rank[..., None, :] * block.scan.step_proj[:, None]).sum(4) + block.scan.step_bias[:, None]
        torch.testing.assert_close(delta, nn.functional.softplus(steps))  # no step size rounded to bfloat16
        return y

    monkeypatch.setattr(vss, "selective_scan", spy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = block(x)
    assert seen == [torch.float32] * 3
    torch.testing.assert_close(result.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (8, 8)])
def test_maps_of_any_size_keep_their_shape_and_every_parameter_learns(
    size: Position, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    block, x = stirred(VSSBlock(20, d_state=2)), made(2, 20, *size).to(memory_format=memory_format)
    kept = x.clone()
    result = block(x)
    assert result.shape == x.shape
    (result * made(*x.shape, seed=2)).sum().backward()
    assert torch.equal(x, kept)
    # The rates act between two steps: on a map of one position there is nothing for them to learn.
    idle = {"scan.A_log"} if size == (1, 1) else set()
    assert {name for name, parameter in block.named_parameters() if not parameter.grad.abs().sum() > 0} == idle
    torch.testing.assert_close(block(x.contiguous()), result, **EXACT)
