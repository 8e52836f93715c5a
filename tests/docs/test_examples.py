"""The examples themselves: what they teach must be right."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from anomaly_bench.errors import UserError
from anomaly_bench.weights import build_teacher
from tests.docs.pages import ROOT


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_loss_is_the_papers_stage_by_stage_and_position_by_position() -> None:
    method = example("pyramid_matching").METHOD(build_teacher("resnet18.random", None))
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 4, 3), (2, 7, 2, 3)]
    teacher, student = ([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(2))
    expected = 0.0
    for t, s in zip(teacher, student, strict=True):
        count = t.shape[0] * t.shape[2] * t.shape[3]
        for n, h, w in torch.cartesian_prod(*(torch.arange(t.shape[axis]) for axis in (0, 2, 3))).tolist():
            a, b = t[n, :, h, w], s[n, :, h, w]
            expected += 0.5 * float((a / a.norm() - b / b.norm()).square().sum()) / count
    assert method.loss(teacher, student)["matching"].item() == pytest.approx(expected)


def test_the_student_has_the_teachers_structure_and_neither_its_weights_nor_its_statistics() -> None:
    teacher = build_teacher("resnet18.random", None)
    for name, value in teacher.network.named_buffers():
        if "running" in name:
            value.fill_(7.0)
    kept = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = example("pyramid_matching").METHOD(teacher).student
    own = student.state_dict()
    assert {name: value.shape for name, value in own.items()} == {name: value.shape for name, value in kept.items()}
    assert not any(torch.equal(own[name], kept[name]) for name in own if name.endswith("conv1.weight"))
    assert {value.unique().item() for name, value in own.items() if "running_mean" in name} == {0.0}
    assert all(torch.equal(value, kept[name]) for name, value in teacher.state_dict().items())
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_its_optimiser_is_descent_with_momentum_over_the_student_alone() -> None:
    method = example("pyramid_matching").METHOD(build_teacher("resnet18.random", None))
    optimiser = method.configure_optimizers()
    assert isinstance(optimiser, torch.optim.SGD)
    (group,) = optimiser.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.4, 0.9, 1e-4)
    assert len(group["params"]) == len(list(method.student.parameters()))


def test_its_map_is_one_value_a_position_however_strong_the_features() -> None:
    method = example("pyramid_matching").METHOD(build_teacher("resnet18.random", None))
    features = torch.rand(1, 4, 3, 2)
    assert method.distance_map(features, 9 * features).abs().max() < 1e-6
    assert torch.allclose(method.distance_map(features, -features), torch.full((1, 3, 2), 2.0))
    assert F.mse_loss(features, 9 * features) > 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("image,split\n", "list.csv:1: the header must be image,split,defect,mask"),
        ("image,split,defect,mask\na.png,train,good,\nb.png,test,scratch,\n", "list.csv:3: not"),
        ("image,split,defect,mask\na.png,val,good,\n", "list.csv:2: not"),
        ("image,split,defect,mask\na.png,test,good,a_mask.png\n", "list.csv:2: not"),
    ],
)
def test_a_wrong_list_is_refused_by_its_line(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=complaint):
        example("listed").read_list(tmp_path)
