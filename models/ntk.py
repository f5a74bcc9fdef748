"""The empirical neural tangent kernel in closed form."""

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .fourier_reparam import FourierReparamLinear


def empirical_ntk(model: nn.Module, x: Tensor) -> Tensor:
    """K = J Jᵀ, J the Jacobian of the outputs at `x` with respect to the trained parameters (paper, section 4).

    J itself, N rows of all parameters, is never formed. Let u_n be a layer's input, and δ_n the derivative of output n
    with respect to the layer's output. Its gradient with respect to the layer's weight is their outer product. So

        K = Σ_layers (Δ Δᵀ) ∘ (U Uᵀ) + Δ Δᵀ,

    where the second term is of the bias. For an FR layer the gradient is taken with respect to Λ, and u_n is B times
    the layer's input. Fixed bases are not trained and do not count.

    Args:
        model: maps (N, in) to (N, 1) or (N,), each row by itself; its parameters belong to linear and FR layers, each
            used once.
        x: the points, shape (N, in).

    Returns:
        K, shape (N, N), in the dtype of the output.

    Raises:
        ValueError: `x` is not a matrix; the model has more than one output per point; a trained parameter lies outside
            linear and FR layers, in two layers, or in one that is used more than once.
    """
    if x.dim() != 2:
        raise ValueError(f"x must have the shape (N, in), not {tuple(x.shape)}")
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Linear, FourierReparamLinear))]
    owned = [id(parameter) for layer in layers for parameter in layer.parameters(recurse=False)]
    known = set(owned)
    if len(owned) != len(known):
        raise ValueError("two layers of the model share a parameter, which has no closed form here")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in known:
            raise ValueError(f"only linear and FR layers have a closed form here, and {name} belongs to neither")

    calls: list[tuple[nn.Module, Tensor, GradientEdge]] = []

    def keep_input(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        # The edge, not the tensor, which an activation in place would overwrite.
        calls.append((layer, inputs[0].detach(), get_gradient_edge(output)))

    hooks = [layer.register_forward_hook(keep_input) for layer in layers]
    try:
        with torch.enable_grad():
            # An input that asks for a gradient makes every layer's output part of the graph, frozen layers or not.
            output = model(x.detach().requires_grad_())
            if output.shape not in ((len(x),), (len(x), 1)):
                raise ValueError(f"the model must give one output per point, not the shape {tuple(output.shape)}")
            if len(calls) != len({layer for layer, _, _ in calls}):
                raise ValueError("a layer is used more than once in the model, which has no closed form here")
            # Row n of the output depends on row n alone: the gradient of the sum holds every point's sensitivities.
            sensitivities = torch.autograd.grad(output.sum(), [edge for _, _, edge in calls], allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()

    kernel = torch.zeros(len(x), len(x), dtype=output.dtype, device=output.device)
    for (layer, inputs, _), sensitivity in zip(calls, sensitivities):
        if sensitivity is None:  # the output does not depend on this layer
            continue
        outer = sensitivity @ sensitivity.T
        if isinstance(layer, FourierReparamLinear):
            if layer.coefficients.requires_grad:
                kernel += outer * _fr_gram(layer, inputs)
        elif layer.weight.requires_grad:
            kernel += outer * (inputs @ inputs.T)
        if layer.bias is not None and layer.bias.requires_grad:
            kernel += outer
    return kernel


def _fr_gram(layer: FourierReparamLinear, inputs: Tensor) -> Tensor:
    """(B u_n) · (B u_m) for all n, m, shape (N, N), from (N, 2(L + H)) projections rather than (N, M)."""
    phases, waves = layer._factors()
    projections = torch.einsum("nj,cfj->nfc", inputs, waves)
    scaled = projections @ (phases @ phases.T)
    return scaled.flatten(1) @ projections.flatten(1).T
