"""The adapter's products on vLLM's CPU build, against the definition, row by row."""

from __future__ import annotations

import pytest
import torch

from visrl_data.engines.vllm_cpu_lora import bgmv_expand, bgmv_expand_slice, bgmv_shrink

ROWS, IN, OUT, RANK = 5, 6, 7, 2
INDICES = [0, -1, 1, 1, -1]  # of two adapters


@pytest.fixture(params=[INDICES, [1] * ROWS, [-1] * ROWS], ids=["mixed", "one", "none"])
def indices(request) -> torch.Tensor:
    return torch.tensor(request.param)


def expected(inputs: torch.Tensor, weights: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    zeros = torch.zeros(weights.shape[-2])
    return torch.stack([weights[i, 0] @ row if i >= 0 else zeros for row, i in zip(inputs, indices, strict=True)])


def test_a_row_is_multiplied_by_its_own_adapter(indices):
    inputs, weights, output = torch.randn(ROWS, IN), torch.randn(2, 1, RANK, IN), torch.randn(ROWS, 4)
    rest = output[:, RANK:].clone()
    bgmv_shrink(inputs, weights, output, indices, 0.5)
    torch.testing.assert_close(output[:, :RANK], 0.5 * expected(inputs, weights, indices))
    assert output[:, RANK:].equal(rest)


@pytest.mark.parametrize("add", [True, False])
def test_a_product_goes_to_its_columns(indices, add):
    inputs, weights, output = torch.randn(ROWS, RANK), torch.randn(2, 1, OUT, RANK), torch.randn(ROWS, OUT + 3)
    before, product = output.clone(), expected(inputs, weights, indices)
    bgmv_expand_slice(inputs, weights, output, indices, 2, OUT, add)
    torch.testing.assert_close(output[:, 2 : OUT + 2], product + before[:, 2 : OUT + 2] * add)
    assert output[:, :2].equal(before[:, :2]) and output[:, OUT + 2 :].equal(before[:, OUT + 2 :])


def test_the_wider_side_of_an_embedding_is_padding(indices):
    inputs, weights, output = torch.randn(ROWS, RANK), torch.randn(2, 1, OUT, RANK), torch.zeros(ROWS, OUT - 2)
    bgmv_expand(inputs, weights, output, indices)
    torch.testing.assert_close(output, expected(inputs, weights, indices)[:, : OUT - 2])


def test_weights_of_less_precision_are_multiplied_in_that_of_the_output():
    inputs, weights = torch.randn(ROWS, IN, dtype=torch.bfloat16), torch.randn(2, 1, RANK, IN, dtype=torch.bfloat16)
    output, indices = torch.zeros(ROWS, RANK), torch.tensor(INDICES)
    bgmv_shrink(inputs, weights, output, indices)
    torch.testing.assert_close(output, expected(inputs.float(), weights.float(), indices))


@pytest.mark.vllm
def test_the_kernels_have_the_signatures_of_those_that_they_replace():
    import inspect

    from vllm.lora.ops.torch_ops import lora_ops

    from visrl_data.engines import vllm_cpu_lora

    for name in ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice"):
        theirs, ours = (inspect.signature(getattr(module, name)) for module in (lora_ops, vllm_cpu_lora))
        assert [p.default for p in theirs.parameters.values()] == [p.default for p in ours.parameters.values()]
