"""PyTorch's transforms of functions around a layer that draws, and of the layer as a module."""

import keras
import numpy as np
import pytest
from backend import BACKEND, train
from catalog import ROWS, rows

if BACKEND != "torch":
    pytest.skip("PyTorch's alone", allow_module_level=True)

import torch

from keras_dropouts import random

# What the input decides is drawn with it.
product = rows(product=True, by_value=False, shakes=False)
product_or_sum = [row for row in ROWS if row in product.args[1] or row.adds or row.shakes]


def multiplier(row, layer):
    return train(layer, row.inputs(np.ones(row.shape, "float32")))


@pytest.mark.parametrize("row", product_or_sum, ids=str)
def test_vmap_draws_as_it_is_told(row):
    # So many that one draw for each would differ.
    layer, x = row.make(0.5), torch.ones(20, *row.shape)

    def call(x):
        return layer(row.inputs(x), training=True)

    # Else the layer that it may wrap would be built within.
    layer(row.inputs(x[0]))
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(call)(x)
    same = torch.func.vmap(call, randomness="same")(x).detach()
    different = torch.func.vmap(call, randomness="different")(x).detach()
    assert all((y == same[0]).all() for y in same)
    assert len({y.numpy().tobytes() for y in different}) > 1
    twin = row.make(0.5)
    multiplier(row, twin)
    np.testing.assert_array_equal(same[0], multiplier(row, twin))


@pytest.mark.parametrize("row", [row for row in ROWS if row not in product_or_sum and not row.called], ids=str)
def test_vmap_of_what_is_no_product_is_refused(row):
    layer, x = row.make(0.5), torch.ones(3, *row.shape)
    for randomness in ("different", "error"):
        with pytest.raises(RuntimeError, match="vmap"):
            torch.func.vmap(lambda x: layer(x, training=True), randomness=randomness)(x)


def test_vmap_within_vmap():
    layer = ROWS[0].make(0.5)
    y = torch.ones(3, 2, 4, 5)
    for _ in range(2):
        y = torch.func.vmap(
            torch.func.vmap(lambda x: layer(x, training=True), randomness="different"), randomness="different"
        )(y)
        assert len({part.numpy().tobytes() for part in y.flatten(0, 1)}) == 6
        y = torch.ones_like(y)


@product
def test_the_gradient_of_each_sample(row):
    layer, twin, x = row.make(0.5), row.make(0.5), torch.ones(5, *row.shape)

    def loss(x):
        return (layer(row.inputs(x), training=True) ** 2).sum()

    gradients = torch.func.vmap(torch.func.grad(loss), randomness="different")(x)
    m = torch.func.vmap(lambda x: twin(row.inputs(x), training=True), randomness="different")(x)
    torch.testing.assert_close(gradients, 2 * m * m)


@pytest.mark.parametrize("row", [row for row in product.args[1] if len(row.shape) == 3], ids=str)
def test_jacobians(row):
    x = torch.ones(row.shape)
    expected = multiplier(row, row.make(0.5)).ravel()

    def diagonal(jacobian):
        layer = row.make(0.5)
        j = jacobian(lambda x: layer(row.inputs(x), training=True), x).detach().reshape(x.numel(), x.numel())
        assert torch.count_nonzero(j - torch.diag(j.diag())) == 0
        return j.diag()

    def batched(function, x):
        x = x.clone().requires_grad_()
        identity = torch.eye(x.numel()).reshape(-1, *x.shape)
        return torch.autograd.grad(function(x), x, identity, is_grads_batched=True)[0]

    def vectorized(function, x):
        return torch.autograd.functional.jacobian(function, x, vectorize=True)

    for jacobian in (batched, vectorized, lambda f, x: torch.func.jacrev(f)(x), lambda f, x: torch.func.jacfwd(f)(x)):
        np.testing.assert_allclose(diagonal(jacobian), expected, rtol=1e-6)


def test_a_large_selection_has_gradients_in_batches_and_of_gradients(monkeypatch):
    monkeypatch.setattr("keras_dropouts.random.multiply.LARGE", 1)
    x = torch.tensor([3.0, torch.inf], requires_grad=True)
    y = random.multiply_where(torch.tensor([True, False]), 2.0, x)
    jacobian = torch.autograd.grad(y, x, torch.eye(2), is_grads_batched=True, retain_graph=True)[0]
    assert jacobian.tolist() == [[2, 0], [0, 0]]
    gradient = torch.autograd.grad(y[0] ** 2, x, create_graph=True)[0]
    assert gradient.tolist() == [24, 0]
    assert torch.autograd.grad(gradient[0], x)[0].tolist() == [8, 0]


def test_a_state_that_is_no_input_may_be_counted():
    layer = keras.Sequential([ROWS[0].make(0.5)])
    torch.func.grad(lambda x: layer(x, training=True).sum())(torch.ones(2, 3))
    assert layer.layers[0]._random_state.read()[1] == 1


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_layer_is_a_module_that_can_be_moved(row):
    layer = row.make(0.5)
    multiplier(row, layer)
    assert layer.to("cpu") is layer


def test_a_selection_has_a_forward_derivative_where_gradients_are_off():
    keep = torch.tensor([True, False, True])
    with torch.no_grad():
        _, tangent = torch.func.jvp(lambda x: random.multiply_where(keep, 2.0, x), (torch.ones(3),), (torch.ones(3),))
    assert tangent.tolist() == [2, 0, 2]
