"""Masks against eq. 11 and their statistics; regeneration against the equation after it, value by value."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from anomaly_bench.layers.noise import NoiseSource
from anomaly_bench.layers.regeneration import Regeneration, random_mask

STAGES = (256, 512, 1024)


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 7, 1, 3)])
def test_mask_is_0_where_the_draw_is_below_the_rate_and_1_elsewhere(shape: tuple[int, int, int, int]) -> None:
    n, _, height, width = shape
    r = torch.rand(n * height * width, generator=seeded()).tolist()
    rate = sorted(r)[3]  # a draw that equals the rate is not below it
    expected = torch.tensor([0.0 if value < rate else 1.0 for value in r], dtype=torch.float64)
    mask = random_mask(features(*shape), rate, seeded())
    torch.testing.assert_close(mask, expected.view(n, 1, height, width), rtol=0, atol=0)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_hidden_share_is_the_rate_within_binomial_bounds(rate: float, dtype: torch.dtype) -> None:
    mask = random_mask(torch.empty(16, 2, 64, 64, dtype=dtype), rate, seeded())
    assert mask.dtype == dtype
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    hidden = (mask == 0).double().mean().item()
    assert abs(hidden - rate) < 4 * math.sqrt(rate * (1 - rate) / mask.numel())


def test_rate_0_hides_nothing_and_rate_1_everything() -> None:
    x = features(2, 3, 32, 32)
    assert random_mask(x, 0.0, seeded()).min() == 1
    assert random_mask(x, 1.0, seeded()).max() == 0


def test_masks_differ_between_samples_stages_and_calls() -> None:
    generator = seeded()
    first, stage, second = (random_mask(features(3, c, 8, 8), 0.5, generator) for c in (4, 8, 4))
    masks = [mask[i] for mask in (first, stage, second) for i in range(3)]
    for i, a in enumerate(masks):
        for b in masks[i + 1 :]:
            assert 0.2 < (a != b).double().mean() < 0.8


def test_the_same_seed_gives_the_same_masks_and_another_others() -> None:
    x = features(2, 3, 8, 8)
    one, same, other = NoiseSource(5), NoiseSource(5), NoiseSource(6)
    for _ in range(3):
        mask = random_mask(x, 0.5, one.generator(x.device))
        assert torch.equal(mask, random_mask(x, 0.5, same.generator(x.device)))
        assert not torch.equal(mask, random_mask(x, 0.5, other.generator(x.device)))


def test_masks_and_global_draws_leave_each_other_alone() -> None:
    x = features(2, 3, 8, 8)
    state = torch.get_rng_state()
    quiet = [random_mask(x, 0.5, generator) for generator in [seeded()] for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    generator = seeded()
    disturbed = []
    for seed in range(2):
        torch.manual_seed(seed)
        torch.rand(7)
        disturbed.append(random_mask(x, 0.5, generator))
    assert all(torch.equal(a, b) for a, b in zip(quiet, disturbed, strict=True))


def convolved(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """bias + sum over channels and window, zeros outside of the map; for odd windows."""
    n, c_in, height, width = x.shape
    window = layer.weight.shape[2]
    assert layer.bias is not None
    result = torch.zeros(n, len(layer.weight), height, width, dtype=x.dtype)
    for i, o, h, w in torch.cartesian_prod(*map(torch.arange, result.shape)).tolist():
        value = layer.bias[o].item()
        for c in range(c_in):
            for dy in range(window):
                for dx in range(window):
                    y, z = h + dy - window // 2, w + dx - window // 2
                    if 0 <= y < height and 0 <= z < width:
                        value += layer.weight[o, c, dy, dx].item() * x[i, c, y, z].item()
        result[i, o, h, w] = value
    return result


def transcribed(x: Tensor, mask: Tensor | None, module: Regeneration) -> Tensor:
    """W2(ReLU(W1(A(F) M)))."""
    aligned = convolved(x, module.align) if isinstance(module.align, nn.Conv2d) else x.clone()
    if mask is not None:
        for n, c, h, w in torch.cartesian_prod(*map(torch.arange, aligned.shape)).tolist():
            aligned[n, c, h, w] *= mask[n, 0, h, w].item()
    first, _, second = module.generation
    hidden = convolved(aligned, first)  # type: ignore[arg-type]
    for position in torch.cartesian_prod(*map(torch.arange, hidden.shape)).tolist():
        hidden[tuple(position)] = max(hidden[tuple(position)].item(), 0.0)
    return convolved(hidden, second)  # type: ignore[arg-type]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("shape", "out", "align"), [((2, 3, 4, 5), 2, True), ((1, 5, 3, 1), 5, False)])
def test_regeneration_is_the_equation_after_11(
    shape: tuple[int, int, int, int], out: int, align: bool, masked: bool
) -> None:
    torch.manual_seed(0)
    module, x = Regeneration(shape[1], out, align=align).double(), features(*shape)
    mask = random_mask(x, 0.5, seeded()) if masked else None
    with torch.no_grad():
        torch.testing.assert_close(module(x, mask), transcribed(x, mask, module), rtol=1e-6, atol=1e-12)


def test_what_is_hidden_is_hidden_after_the_alignment_and_its_bias() -> None:
    module, x = Regeneration(3, 5, align=True).double(), features(2, 3, 4, 5)
    nothing = torch.zeros(2, 1, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(module(x, nothing), module(-9 * x, nothing))
        torch.testing.assert_close(module(x, nothing), module.generation(torch.zeros(2, 5, 4, 5, dtype=torch.float64)))
        assert not torch.allclose(module(x, nothing), module(torch.zeros_like(x), None))


def test_no_mask_is_a_mask_of_ones_and_not_one_of_some() -> None:
    module, x = Regeneration(3, 3, align=False).double(), features(2, 3, 4, 5)
    with torch.no_grad():
        torch.testing.assert_close(module(x, None), module(x, random_mask(x, 0.0, seeded())))
        assert not torch.allclose(module(x, None), module(x, random_mask(x, 0.5, seeded())))


def test_features_are_left_as_they_came() -> None:
    x = features(2, 3, 4, 5).float()
    before = x.clone()
    Regeneration(3, 3, align=False)(x, random_mask(x, 0.5, seeded()))
    assert torch.equal(x, before)


def test_gradient_reaches_only_what_is_not_hidden() -> None:
    x = features(2, 3, 4, 5).requires_grad_()
    mask = random_mask(x, 0.5, seeded())
    Regeneration(3, 3, align=False).double()(x, mask).square().sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad != 0, mask.expand(-1, 3, -1, -1) == 1)


@pytest.mark.parametrize(("align", "millions"), [(True, 26.15), (False, 24.78)])
def test_three_stages_have_the_parameters_of_the_specification(align: bool, millions: float) -> None:
    with torch.device("meta"):
        modules = nn.ModuleList(Regeneration(width, width, align=align) for width in STAGES)
    count = sum(parameter.numel() for parameter in modules.parameters())
    assert count == sum(2 * (9 * c * c + c) + align * (c * c + c) for c in STAGES)
    assert round(count / 1e6, 2) == millions


def test_widths_that_differ_need_the_alignment() -> None:
    with pytest.raises(ValueError, match=r"^features of 3 channels need align=True to become 5$"):
        Regeneration(3, 5, align=False)


def test_regeneration_runs_under_bfloat16_autocast() -> None:
    torch.manual_seed(0)
    module, x = Regeneration(3, 16, align=True), features(2, 3, 4, 5).float()
    mask = random_mask(x, 0.5, seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = module(x, mask)
    assert (mixed.shape, mixed.dtype) == ((2, 16, 4, 5), torch.bfloat16)
    torch.testing.assert_close(mixed.float(), module(x, mask), rtol=0.05, atol=0.02)
    mixed.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
