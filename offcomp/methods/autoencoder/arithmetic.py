"""How the decoder of an autoencoder computes an entry: the last layer, tanh, and the row norm."""

from __future__ import annotations

from collections.abc import Mapping
from math import tanh

from torch import Tensor

from offcomp.methods.autoencoder.latent_codes import stored_latents
from offcomp.methods.autoencoder.losses import TINY
from offcomp.methods.steps import Step, number, numbers, terms_of_sum
from offcomp.numerics.mlp import Network


def latent_steps(tensors: Mapping[str, Tensor], row: int, col: int) -> list[Step]:
    """The latents of the row, the hidden layers, the terms of the last layer, and what follows them."""
    count = sum(name.endswith(".weight") for name in tensors)
    layers = tuple((tensors[f"decoder.{i}.weight"].double(), tensors[f"decoder.{i}.bias"].double()) for i in range(count))
    last = "tanh" if count > 1 else "identity"
    outputs = Network(layers, last).outputs(stored_latents(tensors)[row : row + 1].double())
    steps = [Step(f"latents of row {row:,}", numbers(outputs[0][0].tolist()))]
    for index, hidden in enumerate(outputs[1:-1], 1):
        steps.append(Step(f"hidden layer {index}: LeakyReLU(weights · inputs + biases)", numbers(hidden[0].tolist())))
    weight, bias = layers[-1][0][col], float(layers[-1][1][col])
    inputs = outputs[-2][0]
    products = (weight * inputs).tolist()
    terms = [
        Step(f"weight {k} × input {k}", f"{number(w)} × {number(x)}", value)
        for k, (w, x, value) in enumerate(zip(weight.tolist(), inputs.tolist(), products, strict=True), 1)
    ]
    total = sum(products) + bias
    steps += [*terms_of_sum(terms, largest=True), Step(f"bias of column {col:,}", "", bias), Step("sum", "", total)]
    if last == "tanh":
        steps.append(Step("tanh of the sum", f"tanh({number(total)})", tanh(total)))
    if "row_norms" in tensors:
        value, norm = steps[-1].value or 0.0, float(tensors["row_norms"][row])
        length = max(float(outputs[-1][0].norm()), TINY)
        steps.append(Step("stored row norm / norm of the decoded row", f"{number(norm)} / {number(length)}", norm / length))
        steps.append(Step("entry: value × factor", f"{number(value)} × {number(norm / length)}", value * norm / length))
    return steps
