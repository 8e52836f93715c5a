"""RD: both loss forms against their formulas, one real training step, and what the student may and may not see."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from anomaly_bench.errors import UserError
from anomaly_bench.methods.rd import METHOD, PROTOCOL, ReverseDistillation
from anomaly_bench.weights import build_teacher


class FakeBatch(NamedTuple):
    images: Tensor


@pytest.fixture
def method() -> ReverseDistillation:
    torch.manual_seed(0)
    return ReverseDistillation(build_teacher("resnet18.random", None))


def some_images(side: int = 64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, 3, side, side), generator=generator, dtype=torch.uint8)


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b)))


def tiny_features(seed: int) -> list[Tensor]:
    """Three stages of two images, of sizes that no network would give."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, *shape, generator=generator) + 0.5 for shape in ((3, 5, 4), (5, 3, 2), (7, 1, 3))]


def pixel_loss(teacher: list[Tensor], student: list[Tensor]) -> float:
    """L = sum_k mean_hw (1 - cos(T_k(h, w), S_k(h, w))), averaged over the images (FMM+SCSAtt paper, eq. 13)."""
    total = 0.0
    for t, s in zip(teacher, student, strict=True):
        n, _, height, width = t.shape
        for i in range(n):
            for h in range(height):
                for w in range(width):
                    distance = 1 - cosine(t[i, :, h, w].tolist(), s[i, :, h, w].tolist())
                    total += distance / (n * height * width)
    return total


def global_loss(teacher: list[Tensor], student: list[Tensor]) -> float:
    """L = sum_k (1 - cos(flat T_k, flat S_k)), averaged over the images (the authors' code)."""
    total = 0.0
    for t, s in zip(teacher, student, strict=True):
        for i in range(len(t)):
            total += (1 - cosine(t[i].flatten().tolist(), s[i].flatten().tolist())) / len(t)
    return total


@pytest.mark.parametrize(("form", "formula"), [("global", global_loss), ("pixel", pixel_loss)])
def test_loss_is_its_formula_summed_over_three_stages(form: Any, formula: Any) -> None:
    rd = ReverseDistillation(build_teacher("resnet18.random", None), loss_form=form)
    teacher, student = tiny_features(1), tiny_features(2)
    assert set(rd.loss(teacher, student)) == {"distillation"}
    assert rd.loss(teacher, student)["distillation"].item() == pytest.approx(formula(teacher, student), rel=1e-5)


def test_the_default_is_the_global_form_and_the_two_differ(method: ReverseDistillation) -> None:
    teacher, student = tiny_features(1), tiny_features(2)
    loss = method.loss(teacher, student)["distillation"].item()
    assert loss == pytest.approx(global_loss(teacher, student), rel=1e-5)
    assert abs(loss - pixel_loss(teacher, student)) > 0.02


def test_every_stage_counts_for_itself(method: ReverseDistillation) -> None:
    teacher, student = tiny_features(1), tiny_features(2)
    for k in range(3):
        mended = [teacher[k] if stage == k else student[stage] for stage in range(3)]
        rest = [stage for stage in range(3) if stage != k]
        expected = global_loss([teacher[stage] for stage in rest], [student[stage] for stage in rest])
        assert method.loss(teacher, mended)["distillation"].item() == pytest.approx(expected, rel=1e-5)


def test_the_student_sees_the_teachers_features_and_nothing_of_the_images(method: ReverseDistillation) -> None:
    method.eval()
    features = method.teacher(some_images() / 255)
    one = method.student_features(some_images() / 255, features)
    torch.testing.assert_close(method.student_features(torch.full((3, 3, 64, 64), torch.nan), features), one)
    other = method.student_features(some_images() / 255, [2 * stage for stage in features])
    assert not torch.allclose(other[0], one[0])


def test_one_training_step_moves_the_whole_student_and_nothing_of_the_teacher(
    method: ReverseDistillation, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: dict[str, Tensor] = {}
    monkeypatch.setattr(method, "log_dict", lambda values, **_: logged.update(values))
    before = {key: value.clone() for key, value in method.state_dict().items()}
    features = method.train().teacher(some_images() / 255)
    optimiser: Any = method.configure_optimizers()

    loss = method.training_step(FakeBatch(some_images()), 0)
    loss.backward()
    optimiser.step()

    assert set(logged) == {"distillation", "loss"}
    assert loss.item() == logged["loss"].item() == logged["distillation"].item()
    assert not any(value.requires_grad for value in logged.values())
    moved = {key for key, value in method.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {key for key in before if key.startswith(("bottleneck.", "decoder."))}
    torch.testing.assert_close(method.teacher(some_images() / 255), features, rtol=0, atol=0)


def test_the_training_loss_is_that_of_the_images_in_0_to_1(
    method: ReverseDistillation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method, "log_dict", lambda *_, **__: None)
    images = some_images(32)
    with torch.no_grad():
        loss = method.eval().training_step(FakeBatch(images), 0)
        teacher = method.teacher(images.float() / 255)
        student = method.decoder(method.bottleneck(teacher))
    assert loss.item() == pytest.approx(global_loss(teacher, student), rel=1e-4)


def test_a_few_steps_bring_the_loss_down(method: ReverseDistillation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method, "log_dict", lambda *_, **__: None)
    optimiser: Any = method.train().configure_optimizers()
    losses = []
    for _ in range(8):
        loss = method.training_step(FakeBatch(some_images(32)), 0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_adam_holds_exactly_the_students_parameters_with_the_authors_settings(method: ReverseDistillation) -> None:
    optimiser = method.configure_optimizers()
    assert type(optimiser) is torch.optim.Adam
    held = [id(parameter) for group in optimiser.param_groups for parameter in group["params"]]
    student = [*method.bottleneck.parameters(), *method.decoder.parameters()]
    assert sorted(held) == sorted(id(parameter) for parameter in student)
    for group in optimiser.param_groups:
        assert (group["lr"], group["betas"], group["weight_decay"]) == (0.005, (0.5, 0.999), 0)


def test_the_protocol_is_the_authors() -> None:
    assert METHOD is ReverseDistillation
    assert PROTOCOL is PROTOCOL
    assert (PROTOCOL.teacher, PROTOCOL.image_size) == ("wide_resnet50_2.tv_in1k", 256)
    assert (PROTOCOL.epochs, PROTOCOL.batch_size) == (200, 16)


@pytest.mark.parametrize("side", [64, 96])
def test_stage_maps_are_cosine_distances_at_a_quarter_an_eighth_and_a_sixteenth(
    method: ReverseDistillation, side: int
) -> None:
    images = some_images(side)
    with torch.no_grad():
        maps = method.eval().predict_step(FakeBatch(images), 0)
        teacher = method.teacher(images.float() / 255)
        student = method.student_features(images, teacher)
    shapes = {name: tuple(stage.shape) for name, stage in maps.items()}
    assert shapes == {f"stage{k}": (3, side // 2 ** (k + 1), side // 2 ** (k + 1)) for k in (1, 2, 3)}
    for t, s, stage_map in zip(teacher, student, maps.values(), strict=True):
        assert stage_map.min() > -1e-6
        assert stage_map.max() < 2 + 1e-6
        assert stage_map.std() > 0
        for n, h, w in ((0, 0, 0), (1, 2, 3), (2, 3, 0)):
            expected = 1 - cosine(t[n, :, h, w].tolist(), s[n, :, h, w].tolist())
            assert stage_map[n, h, w].item() == pytest.approx(expected, abs=1e-5)


def test_student_state_is_all_that_is_needed_beside_the_teacher(method: ReverseDistillation) -> None:
    state = method.student_state()
    assert not any("teacher" in key for key in state)
    torch.manual_seed(1)
    other = ReverseDistillation(method.teacher)
    missing, unexpected = other.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.startswith("teacher.") for key in missing)
    images = some_images() / 255
    torch.testing.assert_close(other.eval().stage_maps(images), method.eval().stage_maps(images))


def test_225_pixels_are_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"^image_size must be a multiple of 32, not 225: .*\.$"):
        METHOD.check(dataclasses.replace(PROTOCOL, image_size=225), {})


@pytest.mark.parametrize("wrong", [{"image_size": 0}, {"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}])
def test_protocol_refuses_values_that_cannot_train(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^{next(iter(wrong))} must be .*, not 0"):
        dataclasses.replace(PROTOCOL, **wrong)
