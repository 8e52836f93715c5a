"""The exportable form of the scan gives what the trained one gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from anomaly_bench.layers.selective_scan import selective_scan
from anomaly_bench.layers.vss import VSSBlock


class Scan(nn.Module):
    def forward(self, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return selective_scan(u, delta, a, b, c, d)


@pytest.mark.parametrize(("n", "steps"), [(1, 7), (3, 40)])
def test_an_exported_scan_is_the_eager_one(n: int, steps: int) -> None:
    torch.manual_seed(0)
    u, delta = torch.randn(n, 2, steps, 3), torch.rand(n, 2, steps, 3)
    a, d = -torch.rand(2, 3, 5), torch.randn(2, 3)
    b, c = torch.randn(n, 2, steps, 5), torch.randn(n, 2, steps, 5)
    arguments = (u, delta, a, b, c, d)
    exported = torch.export.export(Scan(), arguments, strict=False)
    calls = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert sum("scan" in call for call in calls) == 1, "one loop, whatever the length"
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(*arguments), selective_scan(*arguments))


def test_an_exported_block_takes_any_batch() -> None:
    torch.manual_seed(0)
    block = VSSBlock(8).eval()
    shapes = {"x": {0: torch.export.Dim("n")}}
    exported = torch.export.export(block, (torch.randn(2, 8, 4, 6),), dynamic_shapes=shapes, strict=False)
    images = torch.randn(5, 8, 4, 6)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(images), block(images))
