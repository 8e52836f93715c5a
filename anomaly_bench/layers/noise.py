"""Random numbers of their own for masks and feature noise, apart from PyTorch's global generator.

Other draws, such as the order of the images, then leave the masks alone, and drawing masks leaves them alone.
"""

from __future__ import annotations

import hashlib

import torch


class NoiseSource:
    """Generators by device, all from one seed; a device's numbers are not those of another.

    Args:
        seed: two sources of the same seed give the same numbers.
        running: seed of the running generators alone; None for `seed`. Where several processes share a run, each has
            its own, and what is drawn alike at every call is alike in all of them.
    """

    def __init__(self, seed: int, *, running: int | None = None) -> None:
        self.seed = seed
        self.running = seed if running is None else running
        self._generators: dict[torch.device, torch.Generator] = {}

    def generator(self, device: torch.device | str) -> torch.Generator:
        """The device's running generator, made at first use; the same object afterwards."""
        # "cuda" and "cuda:0" may be one device, and must not become two generators that repeat each other.
        place = torch.empty(0, device=device).device
        if place not in self._generators:
            self._generators[place] = torch.Generator(place).manual_seed(self.running)
        return self._generators[place]

    def fixed(self, device: torch.device | str, stream: int) -> torch.Generator:
        """A fresh generator at its start, for what must be drawn alike at every call; one stream for each use."""
        # Hashed, because seed + stream would let neighbouring seeds share streams.
        digest = hashlib.sha256(f"{self.seed} {stream}".encode()).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Where every running generator is, by device."""
        return {str(device): generator.get_state() for device, generator in self._generators.items()}

    def load_state_dict(self, states: dict[str, torch.Tensor]) -> None:
        """Go on from there."""
        for device, state in states.items():
            self.generator(device).set_state(state)
