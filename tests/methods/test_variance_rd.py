"""Variance-loss RD: eq. 1-5 on each of the decoder's outputs, RD's network and maps, and images that do not fit it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from anomaly_bench.methods.rd import ReverseDistillation
from anomaly_bench.methods.variance_rd import METHOD, PROTOCOL, VarianceReverseDistillation
from anomaly_bench.weights import build_teacher
from tests.methods.test_fmm_scsatt import assert_exactly_the_student_trains, images, refusal, training_loss
from tests.methods.test_rd import cosine, global_loss, pixel_loss, tiny_features

DISTANCES = ["cosine", "l1", "l2"]
STAGES = [(1,), (2,), (3,), (1, 2, 3)]


def build(**options: Any) -> VarianceReverseDistillation:
    torch.manual_seed(0)
    return VarianceReverseDistillation(build_teacher("resnet18.random", None), **options)


def terms_of(teacher: list[Tensor], student: list[Tensor], **options: Any) -> dict[str, Tensor]:
    """The loss, which needs none of the network's weights."""
    with torch.device("meta"):
        method = build(**options)
    return method.loss(teacher, student)


def variance(features: Tensor, distance: str, reduction: str) -> float:
    """L_var = 1/N sum_i d(F_i, 1/N sum_j F_j), eq. 2-5 and Table III, of one output D^k."""
    vectors = [sample.flatten().tolist() for sample in features]
    size = len(vectors[0])
    mean = [sum(vector[p] for vector in vectors) / len(vectors) for p in range(size)]
    total = 0.0
    for vector in vectors:
        apart = [abs(value - centre) for value, centre in zip(vector, mean, strict=True)]
        scale = size if reduction == "mean" else 1
        if distance == "cosine":
            total += 1 - cosine(vector, mean)
        elif distance == "l1":
            total += sum(apart) / scale
        else:
            total += math.sqrt(sum(value**2 for value in apart) / scale)
    return total / len(vectors)


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("detach", [True, False])
def test_loss_is_rds_plus_lambda_times_eq_5_of_every_named_stage(
    stages: tuple[int, ...], distance: str, reduction: str, detach: bool
) -> None:
    options = {"distance": distance, "reduction": reduction, "detach_mean": detach}
    teacher, student = tiny_features(1), tiny_features(2)
    terms = terms_of(teacher, student, variance_stages=stages, variance_weight=0.3, **options)
    expected = {
        "distillation": global_loss(teacher, student),
        "variance": 0.3 * sum(variance(student[stage - 1], distance, reduction) for stage in stages),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=2e-6)


def test_the_default_is_a_tenth_of_the_cosine_variance_of_the_largest_map() -> None:
    teacher, student = tiny_features(1), tiny_features(2)
    term = terms_of(teacher, student)["variance"].item()
    assert term == pytest.approx(0.1 * variance(student[0], "cosine", "sum"), rel=2e-6)
    method = build()
    features = method.student_features(images(), method.teacher(images()))
    assert features[0].shape[2] > features[1].shape[2] > features[2].shape[2]


def test_rds_own_term_follows_loss_form() -> None:
    teacher, student = tiny_features(1), tiny_features(2)
    terms = terms_of(teacher, student, loss_form="pixel")
    assert terms["distillation"].item() == pytest.approx(pixel_loss(teacher, student), rel=2e-6)


@pytest.mark.parametrize("stages", STAGES)
def test_only_the_named_stages_feel_the_variance_loss(stages: tuple[int, ...]) -> None:
    student = [features.requires_grad_() for features in tiny_features(2)]
    term = terms_of(tiny_features(1), student, variance_stages=stages)["variance"]
    gradients = torch.autograd.grad(term, student, allow_unused=True)
    assert [stage for stage, gradient in enumerate(gradients, start=1) if gradient is not None] == list(stages)


def test_a_detached_mean_changes_the_gradient_and_not_the_value() -> None:
    values, gradients = [], []
    for detach in (False, True):
        student = [features.requires_grad_() for features in tiny_features(2)]
        term = terms_of(tiny_features(1), student, detach_mean=detach)["variance"]
        values.append(term.item())
        gradients.append(torch.autograd.grad(term, student[0])[0])
    assert values[0] == values[1]
    assert not torch.allclose(gradients[0], gradients[1])


def test_network_and_maps_are_those_of_rd() -> None:
    method = build().eval()
    rd = ReverseDistillation(method.teacher)
    rd.load_state_dict(method.state_dict())  # strict: the same names and shapes
    expected = rd.eval().stage_maps(images())
    for name, stage_map in method.stage_maps(images()).items():
        torch.testing.assert_close(stage_map, expected[name], rtol=0, atol=0)


def test_the_protocol_is_the_papers_where_it_states_one() -> None:
    assert METHOD is VarianceReverseDistillation
    assert (PROTOCOL.teacher, PROTOCOL.image_size, PROTOCOL.student) == ("wide_resnet50_2.tv_in1k", 256, None)
    assert (PROTOCOL.epochs, PROTOCOL.batch_size) == (200, 16)
    (group,) = build().configure_optimizers().param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (5e-3, (0.5, 0.999), 0)


def test_three_steps_move_the_whole_student_and_no_bit_of_the_teacher() -> None:
    assert_exactly_the_student_trains(build(variance_stages=(1, 2, 3)))


def test_nothing_is_drawn_in_a_training_step() -> None:
    method, state = build(), torch.get_rng_state()
    assert training_loss(method).item() == training_loss(method).item()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_last_batch_of_one_image_has_no_variance_and_still_trains(distance: str) -> None:
    method = build(distance=distance).train()
    terms = method.training_terms(images()[:1], method.teacher(images()[:1]))
    assert terms["variance"].item() == pytest.approx(0, abs=1e-6)
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)


def test_images_of_any_size_train_when_the_student_is_resized_to_the_teacher() -> None:
    side = 97  # as the paper's 225 it makes odd maps on every stage
    method = build(resize_student=True).train()
    teacher = method.teacher(images(side))
    student = method.student_features(images(side), teacher)
    assert [s.shape for s in student] == [t.shape for t in teacher]
    assert student[0].shape[2] % 2 == 1
    for resized, decoded in zip(student, method.decoder(method.bottleneck(teacher)), strict=True):
        for corner in (0, -1):  # lies where it lay, as in the anomaly map
            torch.testing.assert_close(resized[:, :, corner, corner], decoded[:, :, corner, corner])
    optimiser: Any = method.configure_optimizers()
    terms = method.training_terms(images(side)[:2], method.teacher(images(side)[:2]))
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    maps = method.eval().stage_maps(images(side))
    assert [value.shape[1:] for value in maps.values()] == [t.shape[2:] for t in teacher]
    assert all(value.isfinite().all() for value in maps.values())


def test_images_that_do_not_fit_fail_without_resizing_and_those_that_fit_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="size"):
        build().training_terms(images(97), build().teacher(images(97)))
    plain, resized = build().eval(), build(resize_student=True).eval()
    resized.load_state_dict(plain.state_dict())
    for name, stage_map in plain.stage_maps(images()).items():
        torch.testing.assert_close(resized.stage_maps(images())[name], stage_map)


def test_225_pixels_are_refused_unless_the_student_is_resized() -> None:
    assert refusal(METHOD, {"image_size": 225}).startswith("image_size must be a multiple of 32, not 225")
    assert refusal(METHOD, {"image_size": 225}, resize_student=True, variance_stages=()).startswith("variance_stages")


@pytest.mark.parametrize(
    ("option", "values", "sentence"),
    [
        ("variance_stages", [(), (0,), (4,), (2, 1), (1, 1)], "variance_stages must name stages of 1, 2, 3"),
        ("variance_weight", [-0.1], "variance_weight must be 0 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_a_sentence(option: str, values: list[Any], sentence: str) -> None:
    for value in values:
        assert refusal(METHOD, {}, **{option: value}).startswith(sentence)
