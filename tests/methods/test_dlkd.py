"""DLKD: eq. 5-10, noise in the teacher's shallow features alone, two learning rates, and what each switch removes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anomaly_bench.errors import UserError
from anomaly_bench.layers.noise import NoiseSource
from anomaly_bench.layers.pseudo_anomaly import add_noise
from anomaly_bench.methods.dlkd import METHOD, PROTOCOL, DualLearning
from anomaly_bench.weights import build_teacher
from tests.layers.test_pseudo_anomaly import SMALL_TO_LARGE, contrast, similarity
from tests.methods.test_fmm_scsatt import (
    assert_exactly_the_student_trains,
    images,
    millions,
    refusal,
    training_loss,
)
from tests.methods.test_rd import cosine, global_loss, pixel_loss, tiny_features

TEACHERS = ["resnet18.random", "tf_efficientnet_lite0.random"]
# Constants of a channel that pass through a linear layer without bias into a batch norm, which subtracts them.
IDLE = r".*(frfn|local\.9)\.out\.bias|reconstruction\..*\.embed\.7\.bias"
FORMULAS: list[tuple[Any, Any]] = [("pixel", pixel_loss), ("global", global_loss)]


def build(teacher: str = "resnet18.random", *, d_state: int = 2, **options: Any) -> DualLearning:
    torch.manual_seed(0)
    return DualLearning(build_teacher(teacher, None), d_state=d_state, **options)


def meta(**options: Any) -> DualLearning:
    """Without weights, for what needs none."""
    with torch.device("meta"):
        return build(**options)


def naive_maps(teacher: list[Tensor], student: list[Tensor]) -> list[Tensor]:
    """M^k(h, w) = 1 - cos(T^k(h, w), F^k(h, w)), eq. 7."""
    maps = []
    for t, s in zip(teacher, student, strict=True):
        values = torch.empty(len(t), *t.shape[2:], dtype=torch.float64)
        for n, h, w in torch.cartesian_prod(*map(torch.arange, values.shape)).tolist():
            values[n, h, w] = 1 - cosine(t[n, :, h, w].tolist(), s[n, :, h, w].tolist())
        maps.append(values)
    return maps


def mixed(a: list[Tensor], b: list[Tensor], share: float) -> list[Tensor]:
    return [x + share * y for x, y in zip(a, b, strict=True)]


def four_features() -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """T_E, F_E, F_CS, F_PS, the last so near to F_E that eq. 9's hinge is open."""
    teacher, anomalous, coarse = tiny_features(1), tiny_features(2), tiny_features(3)
    return teacher, anomalous, coarse, mixed(coarse, anomalous, 2.0)


def values_of(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in terms.items()}


@pytest.mark.parametrize(("form", "formula"), FORMULAS)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_loss_is_eq_6_of_eq_8_9_and_10(form: Any, formula: Any, share: float) -> None:
    teacher, anomalous, coarse, precise = four_features()
    method = meta(loss_form=form, noise_share=share, contrast_weight=0.3, similarity_weight=0.7, margin=0.2)
    count = 2 if share == 1 else 1  # the images with noise, which come first
    noisy, refined = ([features[:count] for features in stages] for stages in (anomalous, precise))
    expected = {
        "coarse": formula(teacher, coarse),
        "precise": formula(teacher, precise),
        "contrast": 0.3 * contrast(noisy, refined, 0.2, form),
        "similarity": 0.7 * similarity(naive_maps(teacher, precise), SMALL_TO_LARGE),
    }
    assert expected["contrast"] > 0.01
    assert values_of(method.dual_loss(teacher, anomalous, coarse, precise)) == pytest.approx(expected, rel=5e-6)


def test_the_papers_weights_and_our_margin_are_the_defaults() -> None:
    teacher, anomalous, coarse, precise = four_features()
    terms = values_of(meta().dual_loss(teacher, anomalous, coarse, precise))
    assert terms["precise"] == pytest.approx(pixel_loss(teacher, precise), rel=5e-6)
    assert terms["contrast"] == pytest.approx(0.02 * contrast(anomalous, precise, 0.5, "pixel"), rel=5e-6)
    assert terms["similarity"] == pytest.approx(
        0.05 * similarity(naive_maps(teacher, precise), SMALL_TO_LARGE), rel=5e-6
    )


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"contrast_weight": 0.0}, {"coarse", "precise", "similarity"}),
        ({"similarity_weight": 0.0}, {"coarse", "precise", "contrast"}),
        ({"contrast_weight": 0.0, "similarity_weight": 0.0}, {"coarse", "precise"}),
        ({"prl": False}, {"coarse", "contrast", "similarity"}),
    ],
)
def test_a_weight_of_0_and_a_missing_learner_drop_their_terms(options: dict[str, Any], left: set[str]) -> None:
    assert set(meta(**options).dual_loss(*four_features())) == left


def test_without_the_precise_learner_eq_9_and_10_are_of_the_coarse_features() -> None:
    teacher, anomalous, _, precise = four_features()
    method = meta(prl=False)
    coarse = precise  # near to F_E, as above
    assert all(a is b for a, b in zip(method.precise_features(teacher, coarse), coarse, strict=True))
    terms = values_of(method.dual_loss(teacher, anomalous, coarse, method.precise_features(teacher, coarse)))
    assert terms == pytest.approx(
        {
            "coarse": pixel_loss(teacher, coarse),
            "contrast": 0.02 * contrast(anomalous, coarse, 0.5, "pixel"),
            "similarity": 0.05 * similarity(naive_maps(teacher, coarse), SMALL_TO_LARGE),
        },
        rel=5e-6,
    )


def test_precise_features_are_eq_5_stage_by_stage() -> None:
    method = build().eval()
    teacher = [stage[:2] for stage in method.teacher(images(32))]
    generator = torch.Generator().manual_seed(4)
    coarse = [t + torch.randn(t.shape, generator=generator) * t.std() for t in teacher]
    maps = [values.clamp(0, 1).float().unsqueeze(1) for values in naive_maps(teacher, coarse)]
    refined = method.precise_features(teacher, coarse)
    for learner, c, m, seen in zip(method.precise, coarse, maps, refined, strict=True):
        expected = learner(c * (1 - m)) * m + c * (1 - m)
        torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(seen, c, rtol=1e-2)


def test_targets_and_eq_5s_map_are_of_the_clean_image_and_only_the_student_gets_the_noisy_one() -> None:
    method = build(contrast_weight=1.0, margin=-1.0).train()
    method.seed_noise(3)
    terms = values_of(method.training_terms(images(32), method.teacher(images(32))))
    method.seed_noise(3)
    with torch.no_grad():
        clean, noisy = method.teacher(images(32)), method.pseudo_anomalous(images(32))
        coarse = method.coarse_features(noisy)
        precise = method.precise_features(clean, coarse)
    assert not torch.allclose(clean[0], noisy[0], rtol=0.1)
    expected = {
        "coarse": pixel_loss(clean, coarse),
        "precise": pixel_loss(clean, precise),
        "contrast": contrast(noisy, precise, -1.0, "pixel"),
        "similarity": 0.05 * similarity(naive_maps(clean, precise), SMALL_TO_LARGE),
    }
    assert terms == pytest.approx(expected, rel=1e-4)
    assert not any(features.requires_grad for features in noisy)


def test_the_gradient_passes_eq_5s_map_only_where_it_is_asked_to() -> None:
    losses, gradients = [], []
    for method in (build(), build(detach_map=False)):
        losses.append(training_loss(method))
        gradients.append(torch.autograd.grad(losses[-1], list(method.mffm.parameters())))
    assert torch.equal(*losses)
    assert not any(torch.allclose(a, b, rtol=1e-3, atol=1e-7) for a, b in zip(*gradients, strict=True))


def stages_with_noise(network: Any, x: Tensor, place: str, noisy: Any) -> list[Tensor]:
    """The three stages of a ResNet or an EfficientNet-Lite, layer by layer, `noisy` after the stem or layer 1."""
    if hasattr(network, "layer1"):
        x = network.maxpool(network.act1(network.bn1(network.conv1(x))))
        stages = [[network.layer1], [network.layer2], [network.layer3]]
    else:
        x = network.bn1(network.conv_stem(x))
        stages = [[network.blocks[0], network.blocks[1]], [network.blocks[2]], [network.blocks[3], network.blocks[4]]]
    features = []
    for number, layers in enumerate(stages):
        if number == ("stem", "layer1").index(place):
            x = noisy(x)
            features = [x] if number == 1 else []
        for layer in layers:
            x = layer(x)
        features.append(x)
    return features


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("place", ["stem", "layer1"])
@pytest.mark.parametrize(("mode", "share"), [("absolute", 1.0), ("relative", 0.5)])
def test_noise_is_added_to_the_named_layers_output_and_to_nothing_else(
    teacher: str, place: Any, mode: Any, share: float
) -> None:
    method = build(teacher, noise_at=place, noise_mode=mode, noise_share=share, noise_std=0.3)
    method.seed_noise(3)
    seen = method.pseudo_anomalous(images())
    generator = NoiseSource(3).generator("cpu")
    normalised = (images() - method.teacher.mean) / method.teacher.std
    with torch.no_grad():
        expected = stages_with_noise(
            method.teacher.network, normalised, place, lambda x: add_noise(x, 0.3, mode, share, generator)
        )
    torch.testing.assert_close(seen, expected)
    clean = method.teacher(images())
    count = 3 if share == 1 else 2
    for a, b in zip(seen, clean, strict=True):
        torch.testing.assert_close(a[count:], b[count:])
        assert all(not torch.allclose(a[n], b[n], rtol=0.01, atol=0.01) for n in range(count))


def test_noise_has_the_papers_deviation_of_0_2_within_statistical_bounds() -> None:
    method = build(noise_at="layer1")  # whose output is F_E^1 itself
    noise = (method.pseudo_anomalous(images())[0] - method.teacher(images())[0]).double()
    assert abs(noise.std().item() / 0.2 - 1) < 4 / math.sqrt(2 * noise.numel())
    assert abs(noise.mean().item()) < 4 * 0.2 / math.sqrt(noise.numel())


def hooks(module: nn.Module) -> int:
    return sum(len(layer._forward_hooks) for layer in module.modules())


def test_the_teacher_is_clean_again_afterwards_even_after_an_error() -> None:
    method = build()
    clean = method.teacher(images())
    method.pseudo_anomalous(images())
    assert hooks(method.teacher) == 0

    def fail(features: Tensor) -> Tensor:
        raise ArithmeticError

    for place in ("stem", "layer1"):
        with pytest.raises(ArithmeticError):
            method.teacher.forward_changed(images(), place, fail)
        assert hooks(method.teacher) == 0
    torch.testing.assert_close(method.teacher(images()), clean, rtol=0, atol=0)


def test_noise_is_drawn_anew_in_training_from_the_methods_own_generator_and_its_seed() -> None:
    method, state = build(), torch.get_rng_state()
    losses = []
    for seed in (5, 5, 6):
        method.seed_noise(seed)
        losses.append([training_loss(method).item() for _ in range(2)])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    method.seed_noise(5)
    assert [training_loss(method).item() for _ in range(2)] == losses[0] == losses[1]
    assert losses[2][0] != losses[0][0] != losses[0][1]


def test_there_is_no_noise_at_test_and_the_maps_are_eq_7_of_precise_and_coarse_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = build().eval()
    monkeypatch.setattr(method, "noise", None)
    with torch.no_grad():
        first, second = (method.stage_maps(images(32)) for _ in range(2))
        teacher = method.teacher(images(32))
        coarse = method.coarse_features(teacher)
        precise = method.precise_features(teacher, coarse)
        torch.testing.assert_close(method.student_features(images(32) * torch.nan, teacher), precise)
    assert list(first) == ["stage1", "stage2", "stage3", "coarse1", "coarse2", "coarse3"]
    assert all(torch.equal(first[name], second[name]) for name in first)
    expected = [*naive_maps(teacher, precise), *naive_maps(teacher, coarse)]
    for seen, values in zip(first.values(), expected, strict=True):
        torch.testing.assert_close(seen.double(), values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_three_steps_move_the_whole_student_and_no_bit_of_the_teacher(teacher: str) -> None:
    assert_exactly_the_student_trains(build(teacher), idle=IDLE)


def test_the_optimiser_has_two_learning_rates_and_spares_the_scans_a_and_d_the_decay() -> None:
    method = build()
    optimiser = method.configure_optimizers()
    assert type(optimiser) is torch.optim.Adam
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    settings: dict[str, tuple[float, float]] = {}
    for group in optimiser.param_groups:
        assert group["betas"] == (0.5, 0.999)
        settings |= {names[id(p)]: (group["lr"], group["weight_decay"]) for p in group["params"]}
    for name, (lr, decay) in settings.items():
        assert lr == (2e-3 if name.startswith("precise.") else 5e-3), name
        assert decay == (0.0 if name.split(".")[-1].lower() in ("a_log", "d") else 1e-4), name
    assert sum(decay == 0 for _, decay in settings.values()) == 6  # A_log and D of three scans


def test_the_protocol_is_the_papers() -> None:
    assert METHOD is DualLearning
    assert (PROTOCOL.teacher, PROTOCOL.student) == ("resnet18.tv_in1k", None)
    assert (PROTOCOL.epochs, PROTOCOL.batch_size, PROTOCOL.image_size) == (200, 8, 256)
    assert METHOD.maps == ("stage", "coarse")


@pytest.mark.parametrize(("gfrb", "lfrb", "prl"), [(False, True, False), (True, True, False), (False, False, True)])
def test_switches_remove_their_parameters_and_the_rest_still_trains(gfrb: bool, lfrb: bool, prl: bool) -> None:
    method = build(gfrb=gfrb, lfrb=lfrb, prl=prl)
    names = "\n".join(name for name, _ in method.named_parameters())
    assert ("gfrb" in names, "branches.lfrb" in names, "precise." in names) == (gfrb, lfrb, prl)
    assert len(method.configure_optimizers().param_groups) == 1 + gfrb + prl
    maps = method.eval().stage_maps(images())
    assert all(torch.equal(maps[f"stage{k}"], maps[f"coarse{k}"]) is not prl for k in (1, 2, 3))
    assert_exactly_the_student_trains(method, idle=IDLE)


def test_without_both_blocks_the_coarse_decoder_is_its_three_up_blocks() -> None:
    method = build(gfrb=False, lfrb=False).eval()
    features = method.teacher(images())
    assert not list(method.reconstruction.parameters())
    deep = method.upsampling[0](method.mffm(features))
    middle = method.upsampling[1](deep)
    expected = [method.upsampling[2](middle), middle, deep]
    torch.testing.assert_close(method.coarse_features(features), expected)
    assert [f.shape for f in expected] == [f.shape for f in features]


def test_sizes_are_the_known_ones() -> None:
    method = meta(d_state=16)
    assert millions(method.mffm) == pytest.approx(11.68, abs=0.005)
    assert millions(method.upsampling) == pytest.approx(2.15, abs=0.005)
    assert [millions(module) for module in method.reconstruction] == pytest.approx([2.135, 0.566, 0.158], abs=0.001)
    assert millions(method.precise) == pytest.approx(2.07, abs=0.005)


def test_a_teacher_without_the_named_layer_is_refused_in_a_sentence() -> None:
    teacher = build_teacher("resnet18.random", None)
    del teacher.shallow["stem"]
    with pytest.raises(UserError, match=r"^no stem to add noise to is known in teacher resnet18; .*\.$"):
        DualLearning(teacher, d_state=1)
    DualLearning(teacher, d_state=1, noise_at="layer1")


@pytest.mark.parametrize(
    ("option", "values", "sentence"),
    [
        ("noise_share", [0.0, -0.5, 1.5, math.nan], "noise_share must be above 0 and at most 1"),
        ("margin", [1.5, -2.0, math.nan], "margin must be a cosine"),
        *(
            (name, [-0.1], f"{name} must be 0 or more")
            for name in ("contrast_weight", "similarity_weight", "noise_std")
        ),
        *((name, [0, -1], f"{name} must be above 0") for name in ("d_state", "expand", "ffn_ratio", "lr_refinement")),
    ],
)
def test_options_that_make_no_sense_are_refused_in_a_sentence(option: str, values: list[Any], sentence: str) -> None:
    for value in values:
        assert refusal(METHOD, {}, **{option: value}).startswith(sentence)
    assert refusal(METHOD, {"image_size": 225}).startswith("image_size must be a multiple of 32, not 225")
