"""SRU, CRU and SCConv against eq. 2-8, written out value by value in Python's own float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from anomaly_bench.layers.scconv import ChannelReconstruction, Gate, SCConv, SpatialReconstruction, pairwise_weights

EXACT = {"rtol": 1e-6, "atol": 1e-12}
GATES: list[Gate] = ["soft", "hard"]
Module = TypeVar("Module", bound=nn.Module)


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def scrambled(module: Module) -> Module:
    """In float64, every weight and bias random, so that none is its own default or another's double."""
    for seed, parameter in enumerate(module.double().parameters()):
        parameter.data = features(*parameter.shape, seed=seed + 10)
    return module


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > 0 else math.exp(value) / (1 + math.exp(value))


def normalised(x: Tensor, groups: int, gamma: Sequence[float], beta: Sequence[float]) -> Tensor:
    """Eq. 2, one mean and variance for each image and group of channels, epsilon 1e-5."""
    n, c, height, width = x.shape
    size, result = c // groups, torch.empty_like(x)
    for i in range(n):
        for k in range(c):
            first = k // size * size
            values = [v for channel in range(first, first + size) for v in x[i, channel].flatten().tolist()]
            mean = sum(values) / len(values)
            variance = sum((v - mean) ** 2 for v in values) / len(values)
            for h in range(height):
                for w in range(width):
                    result[i, k, h, w] = gamma[k] * (x[i, k, h, w] - mean) / math.sqrt(variance + 1e-5) + beta[k]
    return result


def transcribed_sru(
    x: Tensor, sru: SpatialReconstruction, gate: Gate, groups: int, total: float | None = None
) -> Tensor:
    """Eq. 2-5 with threshold 0.5; `total` stands in for the sum in eq. 3."""
    gamma, beta = sru.norm.weight.tolist(), sru.norm.bias.tolist()
    x_out = normalised(x, groups, gamma, beta)
    half, result = x.shape[1] // 2, torch.zeros_like(x)
    for n, c, h, w in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        r = sigmoid(gamma[c] / (sum(gamma) if total is None else total) * x_out[n, c, h, w].item())
        below = (r, r) if gate == "soft" else (0.0, 1.0)
        w1, w2 = (1.0, 0.0) if r > 0.5 else below
        x1, x2 = w1 * x[n, c, h, w], w2 * x[n, c, h, w]
        if c < half:  # X11 goes into the first half of the result, X21 into the second
            result[n, c, h, w] += x1
            result[n, c + half, h, w] += x2
        else:  # X22 into the first, X12 into the second
            result[n, c - half, h, w] += x2
            result[n, c, h, w] += x1
    return result


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("shape", "groups"), [((2, 8, 3, 5), 4), ((1, 6, 5, 1), 3)])
def test_sru_is_eq_2_to_5_value_by_value(gate: Gate, shape: tuple[int, int, int, int], groups: int) -> None:
    sru, x = scrambled(SpatialReconstruction(shape[1], gate=gate, groups=groups)), features(*shape)
    torch.testing.assert_close(sru(x), transcribed_sru(x, sru, gate, groups), **EXACT)


def test_four_groups_are_the_default_and_two_are_not_the_same() -> None:
    x = features(2, 8, 3, 5)
    default = scrambled(SpatialReconstruction(8, gate="soft"))
    two = scrambled(SpatialReconstruction(8, gate="soft", groups=2))
    torch.testing.assert_close(default(x), transcribed_sru(x, default, "soft", 4), **EXACT)
    assert not torch.allclose(default(x), two(x))


@pytest.mark.parametrize("gate", GATES)
def test_another_threshold_moves_the_gate(gate: Gate) -> None:
    x = features(2, 8, 3, 5)
    always = scrambled(SpatialReconstruction(8, gate=gate, threshold=-0.1))
    torch.testing.assert_close(always(x), x, rtol=0, atol=0)  # W1 = 1, W2 = 0 everywhere
    never = scrambled(SpatialReconstruction(8, gate="hard", threshold=1.1))
    torch.testing.assert_close(never(x), x.roll(4, dims=1), rtol=0, atol=0)  # W1 = 0, W2 = 1: the halves change places


def test_soft_and_hard_gates_are_not_the_same() -> None:
    x = features(2, 8, 3, 5)
    soft, hard = (scrambled(SpatialReconstruction(8, gate=gate))(x) for gate in GATES)
    assert (soft - hard).abs().max() > 0.1


@pytest.mark.parametrize(("last", "total"), [(0.5, 1e-6), (0.5 + 1e-4, 1e-6), (0.5 - 1e-4, -1e-6)])
def test_a_sum_of_gammas_near_zero_is_kept_away_from_it_with_its_sign(last: float, total: float) -> None:
    sru, x = scrambled(SpatialReconstruction(8, gate="soft")), features(2, 8, 3, 5)
    small = 2**-13  # so that r is not saturated, and a power of two, so that the sums are exact
    sru.norm.weight.data = small * torch.tensor([1, -1, 2, -2, 0.25, -0.25, -0.5, last], dtype=torch.float64)
    sru.norm.bias.data *= small
    result = sru(x)
    torch.testing.assert_close(result, transcribed_sru(x, sru, "soft", 4, total), **EXACT)
    result.sum().backward()
    assert sru.norm.weight.grad is not None
    assert sru.norm.weight.grad.isfinite().all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_ordinary_sums_of_gammas_of_either_sign_are_left_alone(sign: float) -> None:
    sru, x = scrambled(SpatialReconstruction(8, gate="soft")), features(2, 8, 3, 5)
    sru.norm.weight.data = sign * torch.linspace(0.5, 1.5, 8, dtype=torch.float64)
    torch.testing.assert_close(sru(x), transcribed_sru(x, sru, "soft", 4), **EXACT)


def test_gradient_reaches_gamma_through_the_soft_gate_alone() -> None:
    gradients = {}
    for gate in GATES:
        sru, x = scrambled(SpatialReconstruction(8, gate=gate)), features(2, 8, 3, 5).requires_grad_()
        sru(x).square().sum().backward()
        assert x.grad is not None
        gradients[gate] = sru.norm.weight.grad
    assert gradients["hard"] is None
    assert gradients["soft"] is not None
    assert (gradients["soft"] != 0).all()


@pytest.mark.parametrize("gate", GATES)
def test_bfloat16_does_not_shut_the_gate_of_a_wide_untrained_sru(gate: Gate) -> None:
    sru = SpatialReconstruction(1024, gate=gate)
    x = features(1, 1024, 5, 3).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = sru(x)
    torch.testing.assert_close(result, sru(x.float()).bfloat16(), rtol=0, atol=0)
    assert 0.4 < (sru.relevance(x.float()) > 0.5).double().mean() < 0.6


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, groups: int = 1) -> Tensor:
    """sum over channels of the group and over the window, zeros outside of the map; for odd windows."""
    n, c_in, height, width = x.shape
    c_out, window = len(weight), weight.shape[2]
    result = torch.zeros(n, c_out, height, width, dtype=x.dtype)
    for i, o, h, w in torch.cartesian_prod(*map(torch.arange, result.shape)).tolist():
        first = o // (c_out // groups) * (c_in // groups)
        value = 0.0 if bias is None else bias[o].item()
        for c in range(c_in // groups):
            for dy in range(window):
                for dx in range(window):
                    y, z = h + dy - window // 2, w + dx - window // 2
                    if 0 <= y < height and 0 <= z < width:
                        value += weight[o, c, dy, dx].item() * x[i, first + c, y, z].item()
        result[i, o, h, w] = value
    return result


def transcribed_branches(x: Tensor, cru: ChannelReconstruction) -> tuple[Tensor, Tensor]:
    """Y1 = GWC(u) + PWC1(u) and Y2 = concat(PWC2(l), l) of the squeezed halves u and l."""
    half = x.shape[1] // 2
    u = convolved(x[:, :half], cru.squeeze_upper.weight)
    l_ = convolved(x[:, half:], cru.squeeze_lower.weight)
    y1 = convolved(u, cru.gwc.weight, cru.gwc.bias, groups=2) + convolved(u, cru.pwc1.weight)
    return y1, torch.cat([convolved(l_, cru.pwc2.weight), l_], dim=1)


def descriptor(y: Tensor, n: int, c: int) -> float:
    """S_m of eq. 6."""
    values = y[n, c].flatten().tolist()
    return sum(values) / len(values)


@pytest.mark.parametrize("shape", [(2, 8, 3, 5), (1, 16, 1, 3)])
def test_cru_is_eq_6_to_8_value_by_value(shape: tuple[int, int, int, int]) -> None:
    cru, x = scrambled(ChannelReconstruction(shape[1])), features(*shape)
    with torch.no_grad():
        y1, y2 = transcribed_branches(x, cru)
    expected = torch.empty_like(x)
    for n in range(shape[0]):
        for c in range(shape[1]):
            s1, s2 = descriptor(y1, n, c), descriptor(y2, n, c)
            beta1 = math.exp(s1) / (math.exp(s1) + math.exp(s2))
            beta2 = math.exp(s2) / (math.exp(s1) + math.exp(s2))
            expected[n, c] = beta1 * y1[n, c] + beta2 * y2[n, c]
    torch.testing.assert_close(cru(x).detach(), expected, **EXACT)


def test_the_two_weights_of_every_channel_sum_to_1_and_differ_between_channels() -> None:
    y1, y2 = features(2, 5, 3, 4), features(2, 5, 3, 4, seed=1)
    beta1, beta2 = pairwise_weights(y1, y2)
    assert beta1.shape == beta2.shape == (2, 5, 1, 1)
    torch.testing.assert_close(beta1 + beta2, torch.ones_like(beta1))
    assert beta1.unique().numel() == 10
    everything = torch.cat([y1, y2], dim=1).mean(dim=(2, 3), keepdim=True).softmax(dim=1)
    assert (everything[:, :5] - beta1).abs().min() > 0.1  # the softmax over all 2C channels is another thing


def test_the_weights_of_descriptors_too_large_for_exp_are_still_weights() -> None:
    y = torch.full((1, 2, 3, 3), 1e4)
    beta1, beta2 = pairwise_weights(y, y + torch.tensor([0.0, 1e4]).view(1, 2, 1, 1))
    assert beta1.flatten().tolist() == [0.5, 0]
    assert beta2.flatten().tolist() == [0.5, 1]


def test_cru_does_not_shrink_its_input_however_many_its_channels() -> None:
    y1, y2 = features(1, 1024, 3, 5), features(1, 1024, 3, 5, seed=1)
    beta1, beta2 = pairwise_weights(y1, y2)
    assert (beta1 * y1 + beta2 * y2).std() > 0.5  # two independent maps of deviation 1, averaged: 0.7
    torch.manual_seed(0)
    with torch.no_grad():
        scales = [ChannelReconstruction(c)(features(1, c, 7, 5).float()).std().item() for c in (64, 1024)]
    assert scales[0] / scales[1] == pytest.approx(1, abs=0.3)
    assert min(scales) > 0.1


def test_scconv_is_sru_and_then_cru() -> None:
    torch.manual_seed(0)
    scconv, x = SCConv(8, gate="soft"), features(2, 8, 3, 5).float()
    sru, cru = scconv
    torch.testing.assert_close(scconv(x), cru(sru(x)), rtol=0, atol=0)
    assert not torch.allclose(scconv(x), sru(cru(x)), atol=1e-3)
    assert sru.gate is not SCConv(8, gate="hard")[0].gate


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("shape", [(2, 8, 3, 5), (1, 112, 4, 1), (1, 336, 2, 3)])
def test_scconv_keeps_shapes_and_runs_under_bfloat16_autocast(gate: Gate, shape: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    scconv, x = SCConv(shape[1], gate=gate), features(*shape).float()
    assert scconv(x).shape == shape
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = scconv(x)
    assert (mixed.shape, mixed.dtype) == (shape, torch.bfloat16)
    torch.testing.assert_close(mixed.float(), scconv(x), rtol=0.05, atol=0.05)
    mixed.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in scconv.parameters() if p.grad is not None)


@pytest.mark.parametrize(("channels", "millions"), [(256, 0.12), (1024, 1.90), (3072, 17.1)])
def test_scconv_has_the_published_number_of_parameters(channels: int, millions: float) -> None:
    with torch.device("meta"):
        scconv = SCConv(channels, gate="soft")
    # GN's two vectors; two squeezes; GWC of two groups and its bias; PWC1; PWC2
    c, s = channels, channels // 4
    expected = 2 * c + 2 * (c // 2) * s + 9 * (s // 2) * c + c + s * c + s * (c - s)
    count = sum(parameter.numel() for parameter in scconv.parameters())
    assert count == expected
    assert count / 1e6 == pytest.approx(millions, abs=0.05 if millions > 10 else 0.005)


@pytest.mark.parametrize("channels", [12, 20, 9])
def test_scconv_refuses_channels_that_do_not_divide(channels: int) -> None:
    with pytest.raises(ValueError, match=f"not {channels}$"):
        SCConv(channels, gate="soft")
    with pytest.raises(ValueError, match=f"by 8, not {channels}$"):
        ChannelReconstruction(channels)


@pytest.mark.parametrize(("channels", "groups"), [(10, 4), (9, 3)])
def test_sru_refuses_channels_that_neither_halve_nor_group(channels: int, groups: int) -> None:
    with pytest.raises(ValueError, match=f"by its {groups} groups, not {channels}$"):
        SpatialReconstruction(channels, gate="soft", groups=groups)
