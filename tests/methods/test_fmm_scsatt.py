"""FMM+SCSAtt: eq. 11-14, where masks come from and where they stay away, SCSAtt's orders, what each switch removes."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anomaly_bench.errors import UserError
from anomaly_bench.layers.scconv import SCConv
from anomaly_bench.layers.simam import SimAM, simam
from anomaly_bench.methods.base import DistillationMethod
from anomaly_bench.methods.fmm_scsatt import METHOD, PROTOCOL, FeatureMaskGeneration
from anomaly_bench.weights import build_teacher
from tests.methods.test_rd import global_loss, pixel_loss, some_images, tiny_features

SUBSETS = [(1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)]
ORDERS = ["A", "B", "C"]


def build(**options: Any) -> FeatureMaskGeneration:
    torch.manual_seed(0)
    return FeatureMaskGeneration(build_teacher("resnet18.random", None), **options)


def meta(**options: Any) -> FeatureMaskGeneration:
    """Without weights, for what needs none."""
    with torch.device("meta"):
        return build(**options)


def images(side: int = 64, seed: int = 0) -> Tensor:
    return some_images(side, seed) / 255


def millions(*modules: nn.Module) -> float:
    return sum(parameter.numel() for module in modules for parameter in module.parameters()) / 1e6


def training_loss(method: DistillationMethod) -> Tensor:
    terms = method.train().training_terms(images(32), method.teacher(images(32)))
    return torch.stack(list(terms.values())).sum()


def refusal(method: type[DistillationMethod], protocol: Mapping[str, Any], **options: Any) -> str:
    """The sentence with which a method refuses settings that differ from its defaults."""
    defaults = method.__init__.__kwdefaults__ or {}
    with pytest.raises(UserError) as refused:
        method.check(dataclasses.replace(method.protocol, **protocol), {**defaults, **options})
    sentence = str(refused.value)
    assert sentence.endswith(".")
    assert ". " not in sentence
    return sentence


def assert_exactly_the_student_trains(method: DistillationMethod, *, idle: str = "") -> None:
    """Every parameter of the student is held once, learns and moves in three steps; of the teacher no bit does.

    `idle` is a pattern of the exceptions: biases whose effect a later batch norm subtracts again.
    """
    before = {name: value.clone() for name, value in method.state_dict().items()}
    optimiser: Any = method.train().configure_optimizers()
    held = [id(parameter) for group in optimiser.param_groups for parameter in group["params"]]
    student = {name: p for name, p in method.named_parameters() if not name.startswith("teacher.")}
    assert sorted(held) == sorted(map(id, student.values()))
    for _ in range(3):
        loss = training_loss(method)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    after = method.state_dict()
    assert any(name.startswith("teacher.") and "running_var" in name for name in after)
    for name, value in after.items():
        still = torch.equal(value, before[name])
        assert still == name.startswith("teacher.") or re.fullmatch(idle, name), name
    # In float64 what is only rounding cannot be taken for a gradient.
    terms = method.double().training_terms(images(32).double(), method.teacher(images(32).double()))
    gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), list(student.values()))
    for name, gradient in zip(student, gradients, strict=True):
        assert bool(gradient.abs().max() < 1e-10) == bool(re.fullmatch(idle, name)), name


def masks_of(method: Any) -> list[Tensor | None]:
    """What the regeneration modules are given for masks in one forward pass."""
    seen: list[Tensor | None] = []
    modules = [module for module in method.modules() if type(module).__name__ == "Regeneration"]
    handles = [module.register_forward_pre_hook(lambda _, given: seen.append(given[1])) for module in modules]
    with torch.no_grad():
        method.student_features(images(), method.teacher(images()))
    for handle in handles:
        handle.remove()
    return seen


def assert_masks_are_independent(masks: list[Tensor | None]) -> None:
    """One mask a sample and stage, zeros and ones, none a copy of another."""
    flat = [mask[n].flatten() for mask in masks if mask is not None for n in range(len(mask))]
    for i, one in enumerate(flat):
        for other in flat[i + 1 :]:
            size = min(len(one), len(other))  # a stage that started the generator afresh would repeat another's begin
            assert (one[:size] != other[:size]).float().mean() > 0.1


@pytest.mark.parametrize(("form", "formula"), [("pixel", pixel_loss), ("global", global_loss)])
def test_loss_is_eq_12_and_13_summed_over_stages(form: str, formula: Any) -> None:
    teacher, student = tiny_features(1), tiny_features(2)
    terms = meta(loss_form=form).loss(teacher, student)
    assert set(terms) == {"distillation"}
    assert terms["distillation"].item() == pytest.approx(formula(teacher, student), rel=2e-6)


def test_the_default_is_the_printed_mean_over_positions() -> None:
    teacher, student = tiny_features(1), tiny_features(2)
    loss = meta().loss(teacher, student)["distillation"].item()
    assert loss == pytest.approx(pixel_loss(teacher, student), rel=2e-6)
    assert abs(loss - global_loss(teacher, student)) > 0.02


def test_weight_decay_is_the_gradient_of_eq_14s_sum_of_squares_with_lambda_1e_5() -> None:
    method = build()
    optimiser: Any = method.configure_optimizers()
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    regularisation = 1e-5 * torch.stack([parameter.square().sum() for parameter in parameters]).sum()
    expected = torch.autograd.grad(regularisation, parameters)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)  # of L_kd: what is left is eq. 14's other term
    optimiser.step()
    for parameter, gradient in zip(parameters, expected, strict=True):
        seen = optimiser.state[parameter]["exp_avg"] / (1 - 0.5)  # Adam's first moment after its first step
        torch.testing.assert_close(seen, gradient, rtol=1e-5, atol=0)


def test_adam_has_the_papers_learning_rate_and_our_other_settings() -> None:
    optimiser = build().configure_optimizers()
    assert type(optimiser) is torch.optim.Adam
    (group,) = optimiser.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.5, 0.999), 2e-5)
    assert METHOD is FeatureMaskGeneration
    assert (PROTOCOL.teacher, PROTOCOL.image_size) == ("wide_resnet50_2.tv_in1k", 256)
    assert (PROTOCOL.epochs, PROTOCOL.batch_size, PROTOCOL.student) == (200, 16, None)


@pytest.mark.parametrize("order", ORDERS)
def test_three_steps_move_the_whole_student_and_no_bit_of_the_teacher(order: str) -> None:
    assert_exactly_the_student_trains(build(scsatt_order=order))


def test_under_the_hard_gate_only_the_gates_own_norm_gets_no_gradient_and_waits_for_none() -> None:
    method = build(gate="hard")
    training_loss(method).backward()  # type: ignore[no-untyped-call]
    student = {name: p for name, p in method.named_parameters() if not name.startswith("teacher.")}
    idle = {name for name, p in student.items() if p.grad is None or not p.grad.any()}
    assert idle == {name for name, p in student.items() if not p.requires_grad}
    (sru,) = [name for name, module in method.named_modules() if type(module).__name__ == "SpatialReconstruction"]
    assert idle == {f"{sru}.norm.weight", f"{sru}.norm.bias"}


def test_the_student_sees_the_teachers_features_and_nothing_of_the_images() -> None:
    method = build().eval()
    features = method.teacher(images())
    one = method.student_features(images(), features)
    torch.testing.assert_close(method.student_features(torch.full((3, 3, 64, 64), torch.nan), features), one)
    changed = method.student_features(images(), [feature.flip(3) for feature in features])
    assert not torch.allclose(changed[0], one[0])


def test_features_are_masked_anew_in_training_and_never_at_evaluation() -> None:
    method = build().train()
    features = method.teacher(images())
    one, two = (method.student_features(images(), features) for _ in range(2))
    assert all(not torch.allclose(a, b) for a, b in zip(one, two, strict=True))
    assert masks_of(method.eval()) == [None] * 3
    first, second = (method.stage_maps(images()) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("rate", "rescale", "kept"), [(0.3, False, 1.0), (0.3, True, 1 / 0.7), (0.8, False, 1.0)])
def test_masks_follow_eq_11_sample_by_sample_and_stage_by_stage(rate: float, rescale: bool, kept: float) -> None:
    method = build(mask_rate=rate, mask_rescale=rescale).train()
    masks = [mask for mask in masks_of(method) if mask is not None]
    assert [tuple(mask.shape) for mask in masks] == [(3, 1, 16, 16), (3, 1, 8, 8), (3, 1, 4, 4)]
    values = torch.cat([mask.flatten() for mask in masks])
    assert set(values.tolist()) == {0.0, torch.tensor(kept).item()}
    hidden = (values == 0).double().mean().item()
    assert abs(hidden - rate) < 4 * math.sqrt(rate * (1 - rate) / len(values))
    assert_masks_are_independent(list(masks))


def test_rate_0_is_generation_without_masking() -> None:
    method = build(mask_rate=0.0).train()
    assert len(method.generation) == 3
    assert training_loss(method).item() == training_loss(method).item()


def test_masks_come_from_the_methods_own_generator_and_its_seed() -> None:
    method, state = build(), torch.get_rng_state()
    losses = {}
    for attempt, seed in enumerate((5, 5, 6)):
        method.seed_noise(seed)
        losses[attempt] = [training_loss(method).item() for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    method.seed_noise(5)
    assert [training_loss(method).item() for _ in range(2)] == losses[0] == losses[1]
    assert losses[2][0] != losses[0][0] != losses[0][1]


def test_a_mask_at_test_is_one_for_every_image_alone_or_in_any_batch() -> None:
    method = build(mask_at_test=True).eval()
    method.seed_noise(7)
    masks = masks_of(method)
    assert [tuple(mask.shape) for mask in masks if mask is not None] == [(1, 1, 16, 16), (1, 1, 8, 8), (1, 1, 4, 4)]
    assert_masks_are_independent(masks)
    together, alone, reverse = (method.stage_maps(given) for given in (images(), images()[1:2], images().flip(0)))
    for name, stage_map in together.items():
        torch.testing.assert_close(alone[name][0], stage_map[1], rtol=0, atol=2e-6)
        torch.testing.assert_close(reverse[name][1], stage_map[1], rtol=0, atol=2e-6)
    method.mask_at_test = False
    assert not torch.allclose(method.stage_maps(images())["stage1"], together["stage1"])
    method.mask_at_test = True
    training_loss(method)  # draws masks of its own
    torch.testing.assert_close(masks_of(method.eval()), masks, rtol=0, atol=0)
    method.seed_noise(8)
    assert_masks_are_independent([*masks_of(method), *masks])


@pytest.mark.parametrize("stages", SUBSETS)
def test_a_subset_of_stages_is_fused_decoded_and_compared_alone(stages: tuple[int, ...]) -> None:
    method = build(fused_stages=stages)
    assert len(method.generation) == len(method.fusion.reduce) == len(stages)
    assert method.fusion.out_channels == 256 * len(stages)
    assert len(method.decoder.blocks) == 4 - min(stages)
    seen = enumerate(method.teacher(images()), start=1)
    features = [feature if stage in stages else feature * torch.nan for stage, feature in seen]
    student = method.student_features(images(), features)
    assert [s.shape for s in student] == [features[stage - 1].shape for stage in stages]
    loss = method.loss(method.compared(features), student)["distillation"]
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    maps = method.eval().stage_maps(images())
    assert {name: tuple(value.shape) for name, value in maps.items()} == {
        f"stage{k}": (3, 32 >> k, 32 >> k) for k in stages
    }


def test_without_fmm_the_decoder_itself_is_compared_and_nothing_is_drawn() -> None:
    method = build(fmm=False)
    assert not [name for name in method.state_dict() if name.startswith("generation")]
    assert training_loss(method).item() == training_loss(method).item()
    features = method.teacher(images())
    z = method.embedding(method.attention(method.fusion(features)))
    torch.testing.assert_close(method.student_features(images(), features), method.decoder(z))


@pytest.mark.parametrize("order", ORDERS)
def test_scconv_and_simam_leave_with_their_switch(order: str) -> None:
    def kinds(**options: Any) -> list[str]:
        return [kind for kind, _, _ in units(meta(scsatt_order=order, **options).attention)]

    block, conv = ["SCConv", "BatchNorm2d", "ReLU"], ["Conv2d", "BatchNorm2d", "ReLU"]
    assert kinds(scconv=False) == [*conv, "SimAM"]
    assert kinds(scconv=False, simam=False) == conv
    assert kinds(simam=False) == {"A": [*conv, *block, *conv], "B": [*block, *conv], "C": [*conv, *block]}[order]
    assert millions(meta(simam=False).attention) == millions(meta().attention)


def units(module: nn.Module, channels: int = 768) -> list[tuple[str, int, int]]:
    """Kind, channels in and channels out of every layer as it runs; an SCConv is one layer."""
    ran: list[tuple[str, int, int]] = []

    def found(inside: nn.Module) -> Iterator[nn.Module]:
        if isinstance(inside, SCConv | SimAM | nn.Conv2d | nn.BatchNorm2d | nn.ReLU):
            yield inside
        else:
            for child in inside.children():
                yield from found(child)

    def note(layer: nn.Module, given: Any, made: Tensor) -> None:
        ran.append((type(layer).__name__, given[0].shape[1], made.shape[1]))

    for layer in found(module):
        layer.register_forward_hook(note)
    result = module(torch.randn(2, channels, 4, 3, device=next(module.parameters()).device))
    assert result.shape[2:] == (4, 3)
    return ran


@pytest.mark.parametrize("width", [None, 128])
@pytest.mark.parametrize("order", ORDERS)
def test_the_layers_of_scsatt_run_in_the_documented_order_at_the_documented_widths(
    order: str, width: int | None
) -> None:
    method = meta(scsatt_order=order, fusion_width=width)
    w = width or 256

    def then_norm(kind: str, c_in: int, c_out: int) -> list[tuple[str, int, int]]:
        return [(kind, c_in, c_out), ("BatchNorm2d", c_out, c_out), ("ReLU", c_out, c_out)]

    narrow, attention = then_norm("Conv2d", 768, w), [("SimAM", w, w)]
    expected = {
        "A": [*narrow, *then_norm("SCConv", w, w), *then_norm("Conv2d", w, w), *attention],
        "B": [*then_norm("SCConv", 768, 768), *narrow, *attention],
        "C": [*narrow, *attention, *then_norm("SCConv", w, w)],
    }
    assert units(method.attention) == expected[order]
    assert method.embedding(torch.empty(2, w, 4, 4, device="meta")).shape == (2, 512, 2, 2)


def test_simams_lambda_is_the_options() -> None:
    x = torch.randn(2, 3, 5, 4)
    for lam, method in ((1e-4, meta()), (0.3, meta(simam_lambda=0.3))):
        torch.testing.assert_close(method.attention[-1](x), simam(x, lam=lam))


def wide(**options: Any) -> FeatureMaskGeneration:
    with torch.device("meta"):
        return FeatureMaskGeneration(build_teacher("wide_resnet50_2.random", None), **options)


def test_sizes_on_wide_resnet50_are_the_known_ones() -> None:
    whole, plain = wide(), wide(scconv=False, simam=False)
    assert millions(whole.generation) == pytest.approx(26.15, abs=0.005)
    without_alignment: list[Any] = [module.generation for module in whole.generation]
    assert millions(*without_alignment) == pytest.approx(24.78, abs=0.005)
    (scconv,) = [module for module in whole.modules() if isinstance(module, SCConv)]
    assert millions(scconv) == pytest.approx(1.90, abs=0.005)
    assert millions(plain.fusion, plain.attention, plain.embedding) == pytest.approx(55.7, abs=0.05)
    (widest,) = [module for module in wide(scsatt_order="B").modules() if isinstance(module, SCConv)]
    assert millions(widest) == pytest.approx(17.1, abs=0.05)


@pytest.mark.parametrize(
    ("option", "values", "sentence"),
    [
        ("fused_stages", [(), (0,), (4,), (1, 4), (2, 1), (1, 1)], "fused_stages must name stages of 1, 2, 3"),
        ("mask_rate", [1.0, 1.5, -0.1, math.nan], "mask_rate must be at least 0 and below 1"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_a_sentence(option: str, values: list[Any], sentence: str) -> None:
    for value in values:
        assert refusal(METHOD, {}, **{option: value}).startswith(sentence)
    assert refusal(METHOD, {"image_size": 225}).startswith("image_size must be a multiple of 32, not 225")
