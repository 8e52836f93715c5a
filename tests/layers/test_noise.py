"""Generators of a source: deterministic, apart from the global one and from each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from anomaly_bench.layers.noise import NoiseSource

CPU = torch.device("cpu")


def draw(generator: torch.Generator) -> Tensor:
    return torch.rand(8, generator=generator)


def test_the_running_generator_is_one_object_seeded_with_the_seed_and_goes_on() -> None:
    source = NoiseSource(3)
    assert source.generator(CPU) is source.generator("cpu")
    first, second = draw(source.generator(CPU)), draw(source.generator(CPU))
    expected = torch.rand(16, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.cat([first, second]), expected)


def test_sources_of_one_seed_agree_and_share_nothing() -> None:
    one, same, other = NoiseSource(3), NoiseSource(3), NoiseSource(4)
    first = draw(one.generator(CPU))
    assert torch.equal(draw(same.generator(CPU)), first)
    assert not torch.equal(draw(other.generator(CPU)), first)


def test_a_fixed_generator_starts_afresh_at_every_call() -> None:
    source = NoiseSource(3)
    first, second = source.fixed(CPU, 1), source.fixed(CPU, 1)
    assert first is not second
    value = draw(first)
    draw(source.generator(CPU))
    assert torch.equal(draw(second), value)
    assert torch.equal(draw(NoiseSource(3).fixed(CPU, 1)), value)


def test_fixed_generators_differ_between_streams_and_seeds_and_from_the_running_one() -> None:
    drawn = [draw(NoiseSource(seed).fixed(CPU, stream)) for seed in range(12) for stream in range(12)]
    drawn += [draw(NoiseSource(seed).generator(CPU)) for seed in range(12)]
    assert torch.stack(drawn).unique(dim=0).shape[0] == 12 * 13


def test_fixed_generators_leave_the_running_one_alone() -> None:
    source = NoiseSource(3)
    source.generator(CPU)
    draw(source.fixed(CPU, 0))
    assert torch.equal(draw(source.generator(CPU)), draw(NoiseSource(3).generator(CPU)))


def test_fixed_streams_are_those_they_always_were() -> None:
    # sha256("3 1"), its first 63 bits: a change here moves recorded numbers.
    assert NoiseSource(3).fixed(CPU, 1).initial_seed() == 1478661775159685055


def test_source_and_global_generator_leave_each_other_alone() -> None:
    state = torch.get_rng_state()
    source = NoiseSource(3)
    running, fixed = draw(source.generator(CPU)), draw(source.fixed(CPU, 1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again = NoiseSource(3)
    torch.rand(5)
    assert torch.equal(draw(again.generator(CPU)), running)
    assert torch.equal(draw(again.fixed(CPU, 1)), fixed)


def test_a_source_adds_nothing_to_the_state_of_a_module_that_holds_it() -> None:
    class Noisy(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 3)
            self.noise = NoiseSource(3)

    module = Noisy()
    module.noise.generator(CPU)
    assert set(module.state_dict()) == {"weight", "bias"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_named_with_and_without_its_number_has_one_generator() -> None:
    source = NoiseSource(3)
    assert source.generator("cuda") is source.generator(torch.empty(0, device="cuda").device)
