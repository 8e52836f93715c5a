"""The scan against its recurrence, step by step; its own backward; what it keeps; and that nothing overflows."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_bench.layers import selective_scan as module
from anomaly_bench.layers.selective_scan import ChunkedScan, Plan, chunked_scan, make_plan, selective_scan

EXACT = {"rtol": 1e-6, "atol": 1e-12}
NAMES = ("u", "delta", "a", "b", "c", "d")
PLANS = [Plan(1, 1, 1), Plan(1, 1, 4), Plan(2, 1, 5), Plan(3, 1, 12), Plan(2, 3, 2), Plan(3, 2, 3), Plan(1, 4, 3)]


def arguments(n: int, g: int, steps: int, r: int, s: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """u, delta, a, b, c, d of `selective_scan`, no two alike in anything."""
    generator = torch.Generator().manual_seed(steps)
    u, step, b, c = (torch.randn(n, g, steps, width, generator=generator, dtype=dtype) for width in (r, r, s, s))
    a = -torch.rand(g, r, s, generator=generator, dtype=dtype) * s
    return [u, F.softplus(step), a, b, c, torch.randn(g, r, generator=generator, dtype=dtype)]


def printed(u: Any, delta: Any, a: Any, b: Any, c: Any, d: Any) -> Tensor:
    """h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t, y_t = <C_t, h_t> + D u_t, one number after another."""
    y = torch.empty_like(u)
    n_samples, directions, steps, channels = u.shape
    u, delta, a, b, c, d = (tensor.tolist() for tensor in (u, delta, a, b, c, d))
    for n, g, r in itertools.product(range(n_samples), range(directions), range(channels)):
        h = [0.0] * len(a[g][r])
        for t in range(steps):
            step, value = delta[n][g][t][r], u[n][g][t][r]
            h = [
                math.exp(step * rate) * state + step * value * weight
                for rate, state, weight in zip(a[g][r], h, b[n][g][t], strict=True)
            ]
            y[n, g, t, r] = sum(x * z for x, z in zip(c[n][g][t], h, strict=True)) + d[g][r] * value
    return y


def loop(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The same for all channels at once, for PyTorch to differentiate."""
    h, y = torch.zeros_like(a).expand(len(u), -1, -1, -1), []
    for t in range(u.shape[2]):
        step, value = delta[:, :, t, :, None], u[:, :, t, :, None]
        h = torch.exp(step * a) * h + step * value * b[:, :, t, None]
        y.append((h * c[:, :, t, None]).sum(3))
    return torch.stack(y, dim=2) + d[:, None] * u


def differentiated(scan: Callable[..., Tensor], given: list[Tensor]) -> tuple[Tensor, ...]:
    """y, and the gradients of all arguments of a weighted sum of it."""
    leaves = [tensor.detach().requires_grad_() for tensor in given]
    y = scan(*leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, torch.cos(torch.arange(y.numel()).to(y)).view_as(y))


def by_plan(plan: Plan) -> Callable[..., Tensor]:
    return lambda u, delta, a, b, c, d: chunked_scan(u, delta, a, b, c, plan) + d[:, None] * u


@pytest.mark.parametrize("shape", [(2, 4, 19, 3, 5), (3, 1, 33, 5, 1), (1, 2, 1, 1, 2)])
def test_scan_is_the_recurrence_step_by_step(shape: tuple[int, int, int, int, int]) -> None:
    given = arguments(*shape)
    torch.testing.assert_close(selective_scan(*given), printed(*given), **EXACT)


@pytest.mark.parametrize("steps", [1, 2, 7, 12, 16, 17])
@pytest.mark.parametrize("plan", PLANS)
def test_every_way_to_cut_the_work_gives_the_loops_values_and_gradients(plan: Plan, steps: int) -> None:
    given = arguments(3, 2, steps, 5, 3)
    expected = differentiated(loop, given)
    for name, ours, theirs in zip(("y", *NAMES), differentiated(by_plan(plan), given), expected, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("steps", [1, 7, 16, 17, 25])  # one, a prime, a chunk, a step more, a square
def test_gradients_are_those_of_finite_differences(steps: int) -> None:
    given = [tensor.requires_grad_() for tensor in arguments(2, 2, steps, 2, 2)]
    assert torch.autograd.gradcheck(selective_scan, given)


@pytest.mark.parametrize("plan", [Plan(2, 3, 2), Plan(1, 2, 4)])
def test_gradients_of_rows_side_by_side_are_those_of_finite_differences(plan: Plan) -> None:
    assert torch.autograd.gradcheck(by_plan(plan), [tensor.requires_grad_() for tensor in arguments(2, 2, 7, 2, 2)])


@pytest.mark.parametrize("plan", [make_plan("cpu", 1, 8, 4096), make_plan("cuda", 1, 8, 4096)])
def test_4096_steps_with_decays_of_any_size_stay_finite_and_near_float64(plan: Plan) -> None:
    u, delta, a, b, c, d = arguments(1, 1, 4096, 2, 4)
    # Decays e^(delta A) from 1 to e^-800, in stretches: two exponentials of running sums would not survive the first.
    delta = 50 * torch.rand(delta.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    delta[:, :, 1000:2000] *= 1e-6
    a = -torch.tensor([[[1e-3, 1, 7, 16], [1e-6, 2, 5, 16]]], dtype=torch.float64)
    single = [tensor.float() for tensor in (u, delta, a, b, c, d)]
    ours = differentiated(by_plan(plan), single)
    assert all(tensor.isfinite().all() for tensor in ours)
    for value, exact in zip(ours, differentiated(loop, [tensor.double() for tensor in single]), strict=True):
        # Rounded decays next to 1 cost a plain loop in float32 up to 8e-4 here (in dA), too.
        assert (value - exact).abs().max() < 1e-3 * exact.abs().max()


def test_the_scan_of_half_precision_arguments_is_float32_under_autocast_and_without() -> None:
    halves = [tensor.bfloat16() for tensor in arguments(2, 2, 9, 3, 4, torch.float32)]
    expected = differentiated(selective_scan, [tensor.float() for tensor in halves])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = selective_scan(*halves)
    for result in (inside, selective_scan(*halves)):
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, expected[0], rtol=0, atol=0)


def test_a_backward_called_inside_autocast_is_float32_too() -> None:
    given = arguments(2, 2, 9, 3, 4, torch.float32)
    expected = differentiated(selective_scan, given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = differentiated(selective_scan, given)
    torch.testing.assert_close(inside, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_one_float64_argument_makes_the_scan_float64(name: str) -> None:
    given = arguments(1, 2, 5, 3, 2, torch.float32)
    mixed = [tensor.double() if key == name else tensor for key, tensor in zip(NAMES, given, strict=True)]
    assert selective_scan(*mixed).dtype == torch.float64


@pytest.mark.parametrize("count", [1, 2, 5])
def test_only_the_gradients_that_are_needed_are_computed_and_they_are_the_same(count: int) -> None:
    u, delta, a, b, c, _ = arguments(2, 2, 6, 3, 2)
    scanned = [u, delta, a.mT.contiguous(), b, c]
    saved = SimpleNamespace(save_for_backward=lambda *tensors: setattr(saved, "saved_tensors", tensors))
    y = ChunkedScan.forward(saved, *scanned, Plan(1, 1, 3))
    saved.needs_input_grad = [True] * 5 + [False]
    everything = ChunkedScan.backward(saved, torch.sin(y))
    for needed in itertools.combinations(range(5), count):
        saved.needs_input_grad = [index in needed for index in range(6)]
        gradients = ChunkedScan.backward(saved, torch.sin(y))
        assert [index for index, gradient in enumerate(gradients) if gradient is not None] == list(needed)
        for index in needed:
            torch.testing.assert_close(gradients[index], everything[index], rtol=0, atol=0)


def test_arguments_may_be_strided_and_are_left_alone() -> None:
    given = arguments(2, 2, 7, 3, 4)
    strided = [tensor.mT.contiguous().mT for tensor in given]
    assert not any(tensor.is_contiguous() for tensor in strided)
    strided[4] = given[4][:1, :, :1].expand_as(given[4])
    given[4] = strided[4].contiguous()
    kept = [tensor.clone() for tensor in strided]
    torch.testing.assert_close(differentiated(selective_scan, strided), differentiated(selective_scan, given), **EXACT)
    torch.testing.assert_close(strided, kept, rtol=0, atol=0)


def test_the_gradient_of_a_plain_sum_passes_although_its_memory_is_one_number() -> None:
    leaves = [[tensor.clone().requires_grad_() for tensor in arguments(2, 2, 7, 3, 4)] for _ in range(2)]
    for scan, given in zip((selective_scan, loop), leaves, strict=True):
        scan(*given).sum().backward()
    torch.testing.assert_close([x.grad for x in leaves[0]], [x.grad for x in leaves[1]], **EXACT)


def test_directions_and_samples_never_mix() -> None:
    given = arguments(3, 4, 9, 3, 2)
    whole = selective_scan(*given)
    u, delta, a, b, c, d = given
    for n, g in itertools.product(range(3), range(4)):
        i, j = slice(n, n + 1), slice(g, g + 1)
        alone = selective_scan(u[i, j], delta[i, j], a[j], b[i, j], c[i, j], d[j])
        torch.testing.assert_close(whole[i, j], alone, **EXACT)


STATE_BYTES = 512 * 4 * 32 * 16 * 4  # L = 512, G * R = 4 * 32, S = 16, float32


def test_what_is_kept_for_the_backward_is_a_sixteenth_of_all_states_beside_the_arguments() -> None:
    given = [tensor.requires_grad_() for tensor in arguments(1, 4, 512, 32, 16, torch.float32)]
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = selective_scan(*given)
    assert y.grad_fn is not None
    own = {tensor.untyped_storage().data_ptr() for tensor in given}
    fresh = sum(size for pointer, size in kept.items() if pointer not in own)
    transposed_rates = 4 * 32 * 16 * 4
    assert STATE_BYTES / 16 <= fresh <= STATE_BYTES / 16 + transposed_rates


def test_forward_and_backward_together_never_hold_all_states(tmp_path: Path) -> None:
    given = [tensor.requires_grad_() for tensor in arguments(1, 4, 512, 32, 16, torch.float32)]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        selective_scan(*given).sum().backward()
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    memory = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    peak = max(itertools.accumulate(size for _, size in memory))
    # Entry states, the work arrays of one chunk, y, its gradient, and gradients of u and delta.
    assert STATE_BYTES / 16 < peak < 0.7 * STATE_BYTES


@pytest.mark.parametrize("samples", [1, 8])
@pytest.mark.parametrize(("steps", "width"), [(4096, 8192), (1024, 16384), (256, 32768), (1, 16), (17, 3)])
def test_plans_fill_the_threads_of_a_cpu_and_bound_the_work_arrays_of_a_gpu(
    steps: int, width: int, samples: int
) -> None:
    cpu, gpu = (make_plan(device, samples, width, steps) for device in ("cpu", "cuda"))
    assert cpu.rows == 1
    assert cpu.steps <= 16
    assert cpu.samples == min(samples, max(1, torch.get_num_threads() * 32768 // width))
    assert gpu.samples == samples
    assert gpu.rows * gpu.steps * samples * width <= 1.1 * 2**26
    for plan in (cpu, gpu):
        blocks = math.ceil(steps / (plan.rows * plan.steps))
        assert blocks * plan.rows * plan.steps < 1.13 * steps + 1  # little is filled up


def reference_kernel(u: Any, delta: Any, a: Any, b: Any, c: Any, d: Any, *, delta_softplus: bool) -> Tensor:
    """`mamba_ssm`'s layout: u, delta (N, D, L), A (D, S), B, C (N, G, S, L), D (D,); D = G groups of channels."""
    assert not delta_softplus
    assert not torch.is_autocast_enabled("cpu")
    assert all(tensor.is_contiguous() for tensor in (u, delta, a, b, c, d))
    n, channels, steps = u.shape
    y = torch.empty_like(u)
    for i, k in itertools.product(range(n), range(channels)):
        group, h = k // (channels // b.shape[1]), torch.zeros_like(a[k])
        for t in range(steps):
            h = torch.exp(delta[i, k, t] * a[k]) * h + delta[i, k, t] * u[i, k, t] * b[i, group, :, t]
            y[i, k, t] = (c[i, group, :, t] * h).sum() + d[k] * u[i, k, t]
    return y


def test_arguments_reach_mambas_kernel_in_its_layout_and_come_back_in_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(2, 4, 5, 3, 2)
    expected = selective_scan(*given)
    monkeypatch.setattr(module, "chunked_scan", None)
    monkeypatch.setattr(module, "fused_kernel", lambda device, dtype: reference_kernel)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(selective_scan(*given), expected, **EXACT)


def test_mambas_kernel_is_taken_where_it_is_installed_for_float32_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert module.fused_kernel(gpu, torch.float32) is None
    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = reference_kernel  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "find_spec", lambda name: ModuleSpec(name, None))
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.selective_scan_interface", interface)
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert module.fused_kernel(gpu, torch.float32) is reference_kernel
    assert module.fused_kernel(gpu, torch.float64) is None
    assert module.fused_kernel(torch.device("cpu"), torch.float32) is None


def test_a_broken_mamba_ssm_is_an_error_and_not_a_slow_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: ModuleSpec(name, None))
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    with pytest.raises(ImportError):
        module.fused_kernel(torch.device("cuda"), torch.float32)


@pytest.mark.parametrize("wrong", range(1, 6))
def test_shapes_that_do_not_belong_together_are_refused(wrong: int) -> None:
    given = arguments(2, 4, 5, 3, 2)
    given[wrong] = given[wrong].mT
    with pytest.raises(ValueError, match="delta, a, b, c, d are of shapes"):
        selective_scan(*given)
