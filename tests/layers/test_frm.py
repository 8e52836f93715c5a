"""Eq. 1-5 of DLKD against naive transcriptions, the folding of patches, and what each switch leaves out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anomaly_bench.layers.frm import FRM, GFRB, LFRB, Patches, PreciseRefinement, embed, join, refine, split
from tests.layers.test_frfn import EXACT, Map, dense_3x3, depthwise_3x3, each, gelu, made, naive_frfn, pointwise

SCAN = {"d_state": 3, "expand": 2}
KINDS: list[Patches] = ["grid", "channels", "none"]


def settled(module: nn.Module) -> Any:
    """float64, evaluation mode, and batch norms that have seen something: no statistic is 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    for layer in module.double().eval().modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            for values in (layer.weight.data, layer.running_var):
                values.uniform_(0.5, 2, generator=generator)
            for values in (layer.bias.data, layer.running_mean):
                values.normal_(generator=generator)
    return module


def tensor(images: list[Map]) -> Tensor:
    return torch.tensor(images, dtype=torch.float64)


def norm(x: Map, layer: nn.BatchNorm2d) -> Map:
    """(x - running mean) / sqrt(running variance + 1e-5) * weight + bias, channel by channel."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    values = zip(
        x, *(v.tolist() for v in (layer.running_mean, layer.running_var, layer.weight, layer.bias)), strict=True
    )
    return [
        [[(value - mean) / math.sqrt(variance + 1e-5) * weight + bias for value in row] for row in plane]
        for plane, mean, variance, weight, bias in values
    ]


def add(x: Map, y: Map) -> Map:
    return each(lambda a, b: a + b, x, y)


def naive_embed(x: Map, layers: Any) -> Map:
    """1x1 to half the channels, 3x3, 1x1 back; BN after each, GELU between."""
    x = gelu(norm(pointwise(x, layers[0]), layers[1]))
    x = gelu(norm(dense_3x3(x, layers[3]), layers[4]))
    return norm(pointwise(x, layers[6]), layers[7])


def naive_local(patch: Map, layers: Any) -> Map:
    """Eq. 2 for one patch, BN and GELU after each convolution."""
    patch = gelu(norm(pointwise(patch, layers[0]), layers[1]))
    patch = gelu(norm(depthwise_3x3(patch, layers[3]), layers[4]))
    patch = gelu(norm(pointwise(patch, layers[6]), layers[7]))
    return naive_frfn(patch, layers[9])


def naive_patches(x: Map, patches: Patches, layers: Any) -> Map:
    """Eq. 2 for every patch, and eq. 3's Concat."""
    if patches == "none":
        return naive_local(x, layers)
    if patches == "channels":
        quarter = len(x) // 4
        return [plane for n in range(4) for plane in naive_local(x[n * quarter : (n + 1) * quarter], layers)]
    h, w = len(x[0]) // 2, len(x[0][0]) // 2
    result = [[[math.nan] * 2 * w for _ in range(2 * h)] for _ in x]
    for y, z in ((0, 0), (0, w), (h, 0), (h, w)):
        for c, plane in enumerate(naive_local([[row[z : z + w] for row in plane[y : y + h]] for plane in x], layers)):
            for i, row in enumerate(plane):
                result[c][y + i][z : z + w] = row
    return result


def naive_lfrb(x: Map, block: LFRB) -> Map:
    """Eq. 3."""
    return naive_embed(naive_patches(x, block.patches, block.local), block.embed)


@pytest.mark.parametrize("channels", [5, 8])
def test_embed_narrows_to_half_the_channels_and_back(channels: int) -> None:
    layers, x = settled(embed(channels)), made(2, channels, 3, 4)
    torch.testing.assert_close(layers(x), tensor([naive_embed(image, layers) for image in x.tolist()]), **EXACT)
    assert layers[3].weight.shape == (channels // 2, channels // 2, 3, 3)


@pytest.mark.parametrize(
    ("patches", "shape"), [("grid", (2, 5, 2, 6)), ("channels", (2, 16, 3, 1)), ("none", (2, 6, 3, 5))]
)
def test_lfrb_is_eq_2_and_3(patches: Patches, shape: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    block, x = settled(LFRB(shape[1], patches=patches, ffn_ratio=2)), made(*shape)
    torch.testing.assert_close(block(x), tensor([naive_lfrb(image, block) for image in x.tolist()]), **EXACT)


def windows(patches: Patches, channels: int, height: int, width: int) -> list[tuple[slice, ...]]:
    """Where the patches of eq. 2 lie in (N, C, H, W)."""
    everything = slice(None)
    if patches == "channels":
        return [(everything, slice(n * channels // 4, (n + 1) * channels // 4)) for n in range(4)]
    halves = [(slice(0, side // 2), slice(side // 2, side)) for side in (height, width)]
    return [(everything, everything, rows, columns) for rows in halves[0] for columns in halves[1]]


@pytest.mark.parametrize("patches", ["grid", "channels"])
def test_folding_patches_into_the_batch_is_one_pass_for_each_patch(patches: Patches) -> None:
    torch.manual_seed(0)
    block, x = settled(LFRB(24, patches=patches, ffn_ratio=2)), made(3, 24, 6, 10)
    tiles = torch.full_like(x, torch.nan)
    for window in windows(patches, *x.shape[1:]):
        tiles[window] = block.local(x[window])
    torch.testing.assert_close(block(x), block.embed(tiles), **EXACT)


@pytest.mark.parametrize("patches", ["grid", "channels"])
def test_a_change_stays_in_its_patch_until_the_embedding_carries_it_over(patches: Patches) -> None:
    torch.manual_seed(0)
    block, x = settled(LFRB(16, patches=patches, ffn_ratio=2)), made(1, 16, 8, 12)
    embedding = block.embed
    for window in windows(patches, *x.shape[1:]):
        moved, outside = x.clone(), torch.ones_like(x, dtype=torch.bool)
        moved[window] += made(*x[window].shape, seed=1)
        outside[window] = False
        block.embed = nn.Identity()
        change = (block(moved) - block(x)).abs()
        assert change[outside].max() == 0
        assert change[window].min() > 0
        block.embed = embedding
        reached = ((block(moved) - block(x)).abs() > 1e-9).any(dim=1)
        assert reached.sum() == ((4 + 1) * (6 + 1) if patches == "grid" else 8 * 12)


def test_a_grid_differs_from_one_patch_only_beside_its_seams() -> None:
    torch.manual_seed(0)
    grid, whole = (settled(LFRB(8, patches=kind, ffn_ratio=2)) for kind in ("grid", "none"))
    whole.load_state_dict(grid.state_dict())
    whole.embed = grid.embed = nn.Identity()
    x = made(1, 8, 16, 16)
    difference = (grid(x) - whole(x)).abs().amax(dim=(0, 1))
    beside = torch.zeros(16, 16, dtype=torch.bool)
    beside[5:11] = beside[:, 5:11] = True  # three 3x3 convolutions reach three positions
    assert difference[~beside].max() < 1e-12
    assert difference[7:9].min() > 1e-6
    assert difference[:, 7:9].min() > 1e-6


@pytest.mark.parametrize(("height", "width"), [(4, 5), (3, 6)])
def test_a_grid_of_odd_sizes_is_refused(height: int, width: int) -> None:
    block = LFRB(8, patches="grid", ffn_ratio=2)
    with pytest.raises(ValueError, match=f"patches='grid' needs even height and width, not {height}x{width}"):
        block(torch.zeros(1, 8, height, width))


@pytest.mark.parametrize("channels", [12, 18])
def test_channel_groups_that_are_uneven_or_too_small_are_refused(channels: int) -> None:
    with pytest.raises(ValueError, match=f"patches='channels' needs .* not {channels}"):
        LFRB(channels, patches="channels", ffn_ratio=2)
    LFRB(channels, patches="grid", ffn_ratio=2)


def test_gfrb_is_eq_1() -> None:
    torch.manual_seed(0)
    block, x = settled(GFRB(6, **SCAN, ffn_ratio=2)), made(2, 6, 3, 5)
    modelled = block.gfm(x).tolist()
    expected = [
        add(image, naive_embed(naive_frfn(features, block.frfn), block.embed))
        for image, features in zip(x.tolist(), modelled, strict=True)
    ]
    torch.testing.assert_close(block(x), tensor(expected), **EXACT)


@pytest.mark.parametrize(("gfrb", "lfrb"), [(True, True), (True, False), (False, True)])
def test_frm_is_eq_4_of_the_branches_that_are_on(gfrb: bool, lfrb: bool) -> None:
    torch.manual_seed(0)
    block = settled(FRM(6, gfrb=gfrb, lfrb=lfrb, patches="grid", ffn_ratio=2, **SCAN))
    x = made(2, 6, 2, 4)
    branches = [block.branches[name](x).tolist() for name, on in (("gfrb", gfrb), ("lfrb", lfrb)) if on]
    expected = []
    for n, image in enumerate(x.tolist()):
        concatenated = [plane for branch in branches for plane in branch[n]]  # F_G first, then F_L
        expected.append(add(norm(pointwise(concatenated, block.fuse[0]), block.fuse[1]), image))
    torch.testing.assert_close(block(x), tensor(expected), **EXACT)


def test_frm_without_branches_is_the_identity_and_holds_nothing() -> None:
    block = FRM(6, gfrb=False, lfrb=False, patches="grid", ffn_ratio=2, **SCAN)
    x = made(2, 6, 3, 5)
    assert not block.state_dict()
    assert torch.equal(block(x), x)


def test_precise_is_two_lfrbs_each_with_a_skip() -> None:
    torch.manual_seed(0)
    block, x = settled(PreciseRefinement(6, patches="grid", ffn_ratio=2)), made(2, 6, 2, 4)
    expected = []
    for image in x.tolist():
        once = add(image, naive_lfrb(image, block.first))
        expected.append(add(once, naive_lfrb(once, block.second)))
    torch.testing.assert_close(block(x), tensor(expected), **EXACT)


@pytest.mark.parametrize("detach", [True, False])
def test_refine_is_eq_5_with_m_held_between_0_and_1(detach: bool) -> None:
    torch.manual_seed(0)
    precise, coarse = settled(PreciseRefinement(5, patches="none", ffn_ratio=2)), made(2, 5, 3, 4)
    distance_map = torch.linspace(-0.2, 1.6, 24, dtype=torch.float64).view(2, 3, 4)
    normal, expected = torch.empty_like(coarse), torch.empty_like(coarse)
    for n, c, h, w in torch.cartesian_prod(*map(torch.arange, coarse.shape)).tolist():
        normal[n, c, h, w] = coarse[n, c, h, w] * (1 - min(max(distance_map[n, h, w].item(), 0), 1))
    refined = precise(normal)
    for n, c, h, w in torch.cartesian_prod(*map(torch.arange, coarse.shape)).tolist():
        m = min(max(distance_map[n, h, w].item(), 0), 1)
        expected[n, c, h, w] = refined[n, c, h, w] * m + normal[n, c, h, w]
    torch.testing.assert_close(refine(coarse, distance_map, precise, detach=detach), expected, **EXACT)


def test_refine_leaves_positions_alone_where_m_is_0_and_renews_them_where_it_is_1() -> None:
    torch.manual_seed(0)
    precise, coarse = settled(PreciseRefinement(5, patches="none", ffn_ratio=2)), made(1, 5, 3, 4)
    distance_map = torch.zeros(1, 3, 4, dtype=torch.float64)
    distance_map[0, 1, 2], distance_map[0, 2, 0] = 1, 1.7
    refined = refine(coarse, distance_map, precise, detach=True)
    kept = (distance_map == 0).unsqueeze(1).expand_as(coarse)
    assert torch.equal(refined[kept], coarse[kept])
    louder = refine(10 * kept * coarse + ~kept * 99, distance_map, nn.Identity(), detach=True)
    assert louder[~kept].abs().max() == 0  # nothing of the coarse features is left to an idle Precise


def gradients(distance_map: Tensor, *, detach: bool) -> tuple[Tensor | None, list[Tensor | None]]:
    torch.manual_seed(0)
    precise = settled(PreciseRefinement(5, patches="none", ffn_ratio=2))
    leaf = distance_map.clone().requires_grad_()
    (refine(made(1, 5, 3, 4), leaf, precise, detach=detach) * made(1, 5, 3, 4, seed=1)).sum().backward()
    return leaf.grad, [parameter.grad for parameter in precise.parameters()]


def test_the_gradient_passes_through_m_only_when_it_is_not_detached_nor_clamped() -> None:
    distance_map = torch.full((1, 3, 4), 0.5, dtype=torch.float64)
    distance_map[0, 0, 0] = 1.3
    assert gradients(distance_map, detach=True)[0] is None
    gradient, _ = gradients(distance_map, detach=False)
    assert gradient is not None
    assert gradient[0, 0, 0] == 0
    assert (gradient != 0).sum() == 11


def test_precise_learns_nothing_where_teacher_and_coarse_student_agree() -> None:
    _, idle = gradients(torch.zeros(1, 3, 4, dtype=torch.float64), detach=True)
    _, busy = gradients(torch.full((1, 3, 4), 0.1, dtype=torch.float64), detach=True)
    assert all(gradient is not None and gradient.abs().max() == 0 for gradient in idle)
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in busy)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def frfn_parameters(c: int, h: int) -> int:
    return 9 * (c // 4) ** 2 + (c + 1) * 2 * h + 10 * h + (h + 1) * c


def embed_parameters(c: int) -> int:
    half = c // 2
    return 2 * c * half + 9 * half * half + 2 * (2 * half + c)


def lfrb_parameters(c: int, width: int) -> int:
    """Convolutions before a BN have no bias; the patches share one CNN."""
    return 2 * width * width + 9 * width + 6 * width + frfn_parameters(width, 2 * width) + embed_parameters(c)


@pytest.mark.parametrize("channels", [24, 40, 64, 112])
@pytest.mark.parametrize("patches", KINDS)
def test_lfrb_has_the_parameters_of_its_formula(channels: int, patches: Patches) -> None:
    width = channels // 4 if patches == "channels" else channels
    block = LFRB(channels, patches=patches, ffn_ratio=2)
    assert parameters(block) == lfrb_parameters(channels, width)


@pytest.mark.parametrize(("channels", "scan", "thousands"), [(64, 56, 158), (128, 169, 566), (256, 568, 2135)])
def test_frm_has_its_known_size_and_each_switch_takes_its_share(channels: int, scan: int, thousands: int) -> None:
    options: dict[str, Any] = {"patches": "grid", "ffn_ratio": 2, "d_state": 16, "expand": 2}
    both = FRM(channels, gfrb=True, lfrb=True, **options)
    only_global, only_local = (FRM(channels, gfrb=on, lfrb=not on, **options) for on in (True, False))
    fuse = channels * channels
    local_branch = lfrb_parameters(channels, channels)
    global_branch = parameters(both) - local_branch - 2 * fuse - 2 * channels
    rest = frfn_parameters(channels, 2 * channels) + embed_parameters(channels)
    assert (global_branch - rest) / 1e3 == pytest.approx(scan, abs=0.5)
    assert parameters(both) / 1e3 == pytest.approx(thousands, abs=0.5)
    assert parameters(only_global) == global_branch + fuse + 2 * channels
    assert parameters(only_local) == local_branch + fuse + 2 * channels
    assert not any("lfrb" in name for name in only_global.state_dict())
    assert not any("gfrb" in name for name in only_local.state_dict())


def test_three_precise_refinements_have_2_07_million_parameters() -> None:
    scales = [PreciseRefinement(channels, patches="grid", ffn_ratio=2) for channels in (64, 128, 256)]
    assert [parameters(scale) for scale in scales] == [2 * lfrb_parameters(c, c) for c in (64, 128, 256)]
    assert sum(map(parameters, scales)) / 1e6 == pytest.approx(2.07, abs=0.005)


@pytest.mark.parametrize("channels", [24, 40, 112])
@pytest.mark.parametrize("patches", KINDS)
def test_widths_of_an_efficientnet_keep_their_shape_and_every_parameter_learns(channels: int, patches: Patches) -> None:
    torch.manual_seed(0)
    block = FRM(channels, gfrb=True, lfrb=True, patches=patches, ffn_ratio=2, **SCAN)
    precise = PreciseRefinement(channels, patches=patches, ffn_ratio=2)
    for height, width in ((4, 6), (8, 2)):
        x = torch.randn(2, channels, height, width)
        kept = x.clone()
        result = precise(block(x))
        assert result.shape == x.shape
        (result * torch.randn_like(result)).sum().backward()
        assert torch.equal(x, kept)
    for name, parameter in [*block.named_parameters(), *precise.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("patches", KINDS)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_join_undoes_split_and_both_keep_the_memory_format(
    patches: Patches, memory_format: torch.memory_format
) -> None:
    x = made(3, 16, 6, 4).to(memory_format=memory_format)
    folded = split(x, patches)
    again = join(folded, patches)
    assert torch.equal(again, x)
    assert folded.is_contiguous(memory_format=memory_format)
    assert again.is_contiguous(memory_format=memory_format)
