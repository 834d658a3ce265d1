"""Apply an adapter on vLLM's CPU build by matrix products.

Its own kernels copy the adapter's weights once for each token, most of the time of a pass with a small model, and read
the index -1 of a row without adapter as the last adapter.
"""

from __future__ import annotations

import torch


def install() -> None:
    """Replace the kernels, before vLLM makes an engine."""
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    for module in (lora_ops, punica_cpu):  # both hold them by name
        for kernel in (bgmv_shrink, bgmv_expand, bgmv_expand_slice):
            setattr(module, kernel.__name__, kernel)


def bgmv_shrink(
    inputs: torch.Tensor, weights: torch.Tensor, output: torch.Tensor, indices: torch.Tensor, scaling: float = 1.0
) -> None:
    """Set the first columns of `output` to the scaled inputs times A. indices: each row's adapter, -1 for none."""
    product = _product(inputs, weights, indices, output.dtype)
    output[:, : product.shape[1]] = scaling * product


def bgmv_expand(
    inputs: torch.Tensor, weights: torch.Tensor, output: torch.Tensor, indices: torch.Tensor, add_inputs: bool = True
) -> None:
    """Add the inputs times B to `output`, or set it to them; the wider one of the two is padded."""
    width = min(weights.shape[-2], output.shape[1])
    bgmv_expand_slice(inputs, weights[..., :width, :], output, indices, 0, width, add_inputs)


def bgmv_expand_slice(
    inputs: torch.Tensor,
    weights: torch.Tensor,
    output: torch.Tensor,
    indices: torch.Tensor,
    start: int,
    size: int,
    add_inputs: bool = True,
) -> None:
    """Add the inputs times B to `size` columns of `output` from `start` on, or set these to them."""
    product = _product(inputs, weights, indices, output.dtype)
    columns = output[: len(product), start : start + size]
    columns.copy_(columns + product if add_inputs else product)


def _product(inputs: torch.Tensor, weights: torch.Tensor, indices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return each row times its adapter's matrix, of (adapters, [1,] out, in); zeros for a row without one."""
    inputs = inputs.to(dtype)
    product = torch.zeros(len(inputs), weights.shape[-2], dtype=dtype)
    for number, matrix in enumerate(weights.flatten(0, -3).to(dtype)):
        rows = indices == number
        if rows.all():
            torch.matmul(inputs, matrix.T, out=product)
            return product
        product[rows] = inputs[rows] @ matrix.T
    return product
