"""The loops for CPUs that draw and multiply in one pass, against the operations that they stand in for."""

import numpy as np
import pytest
from backend import BACKEND, value_and_gradient

if BACKEND != "torch":
    pytest.skip("PyTorch alone calls Numba", allow_module_level=True)

import torch
from test_random import key_of

from keras_dropouts import Dropout, GaussianDropout, UniformDropout
from keras_dropouts.random import multiply

kernels = pytest.importorskip("keras_dropouts.random.numba_kernels")

PRODUCTS = {
    "drop": [(rate, rescale) for rate in (0.0, 0.3, 1 - 2**-17, 1.0) for rescale in (True, False)],
    "times_normal": [(0.5,), (0.0,)],
    "times_uniform": [(0.3,), (1.0,)],
}
TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
KEYS = [(1, 2, 0), (2**31 + 5, 2**32 - 1, 2**32 - 2)]
product = pytest.mark.parametrize("name", PRODUCTS)


def both(name, x, number, *rest, key=KEYS[0]):
    """What the loop makes of `x`, and what the operations make of it."""
    function = getattr(multiply, name)
    args = (key_of(*key), torch.tensor(number), *rest)
    with torch.no_grad():
        return function.loops["cpu"](x, *args), function.__wrapped__(x, *args)


def same(x, y):
    # By their bits: a dropped element is no -0.
    x, y = (z.contiguous().view(-1).view(torch.uint8) for z in (x, y))
    return torch.equal(x, y)


@product
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_products_are_those_of_the_operations(name, dtype):
    generator = torch.Generator().manual_seed(1)
    # Samples of less than a block, of many chunks of blocks, and of which a chunk has many.
    shapes = [(3, 5, 7), (2, 8 * 700), (1, 2**13 + 3), (700, 9), (1000, 1), (4,), (), (1, 1), (0, 3), (3, 0)]
    for i, shape in enumerate(shapes):
        x = torch.randn(shape, generator=generator).to(dtype)
        if x.numel() > 8:
            x.view(-1)[:4] = torch.tensor([torch.inf, -torch.inf, -0.0, 1e-42])
        for args in PRODUCTS[name]:
            loop, operations = both(name, x, *args, key=KEYS[i % 2])
            assert loop.shape == shape and loop.dtype == dtype and loop.is_contiguous()
            assert same(loop, operations)


@product
def test_the_strides_of_the_input_do_not_matter(name):
    x = torch.randn((2, 5, 3, 4), generator=torch.Generator().manual_seed(1))
    (number, *rest), expected = PRODUCTS[name][-2], both(name, x, *PRODUCTS[name][-2])[1]
    padded = torch.nn.functional.pad(x, (1, 2))[..., 1:-2]
    inputs = [x.contiguous(memory_format=torch.channels_last), x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)]
    for strided in (*inputs, padded):
        before = strided.clone()
        assert not strided.is_contiguous()
        assert same(both(name, strided, number, *rest)[0], expected)
        assert torch.equal(strided, before)
    key, number = torch.stack([key_of(1, 2)] * 2, 1)[:, 0], torch.tensor([0, number])[1]
    assert same(getattr(kernels, name)(x, key, number, *rest), expected)
    assert same(*both(name, torch.ones(()).expand(x.shape), *PRODUCTS[name][-2]))


class Halved(Dropout):
    def multiply(self, inputs, key, rate):
        return super().multiply(inputs, key, rate.to(self.of) / 2)


class HalvedGaussian(GaussianDropout):
    def multiply(self, inputs, key, rate):
        return multiply.times_normal(inputs, key, (rate / 2).to(self.of))


@pytest.mark.parametrize("of", TYPES, ids=str)
@pytest.mark.parametrize("make", [Halved, HalvedGaussian])
def test_numbers_of_other_types_are_taken_for_what_they_are(make, of):
    layer, same_layer = make(0.5, seed=1), make(0.5, seed=1)
    layer.of, same_layer.of = of, torch.float32
    x = torch.ones(40, 500)
    # A quarter is one in all types.
    assert torch.equal(layer(x, training=True), same_layer(x, training=True))


@product
def test_numbers_and_keys_are_checked(name):
    (number, *rest), x = PRODUCTS[name][0], torch.ones(3, 4)
    with torch.no_grad():
        expected = getattr(multiply, name)(x, key_of(1, 2), torch.tensor(number), *rest)
        assert torch.equal(getattr(multiply, name)(x, key_of(1, 2), number, *rest), expected)
        with pytest.raises(ValueError, match="`key` must be"):
            getattr(multiply, name)(x, key_of(1, 2).long(), torch.tensor(number), *rest)
        with pytest.raises(ValueError, match="must be a number"):
            getattr(multiply, name)(x, key_of(1, 2), torch.tensor([number]), *rest)


@product
def test_inputs_whose_memory_does_not_hold_what_they_are(name):
    (number, *rest), x = PRODUCTS[name][0], torch.randn((4, 9), generator=torch.Generator().manual_seed(1))
    for view, values in ((torch._neg_view(x), -x), (torch._efficientzerotensor(x.shape), torch.zeros_like(x))):
        assert same(both(name, view, number, *rest)[0], both(name, values, number, *rest)[0])


def test_a_gradient_that_is_zero_everywhere():
    x = torch.ones(3, 4, requires_grad=True)
    torch.sgn(Dropout(0.5, seed=1)(x, training=True)).sum().backward()
    assert torch.equal(x.grad, torch.zeros(3, 4))


@product
def test_a_dropped_element_is_0_and_nan_times_noise_is_nan(name):
    x = torch.full((3, 1000), torch.nan)
    loop, operations = both(name, x, *PRODUCTS[name][2 if name == "drop" else 0])
    assert torch.equal(loop.isnan(), operations.isnan())
    assert name != "drop" or ((loop[~loop.isnan()] == 0).all() and (loop == 0).any())


@pytest.mark.parametrize(
    "make, name", [(Dropout, "drop"), (GaussianDropout, "times_normal"), (UniformDropout, "times_uniform")]
)
def test_layers_call_one_loop_forward_and_one_backward(make, name, monkeypatch):
    function, called = getattr(multiply, name), []
    loop = function.loops["cpu"]
    monkeypatch.setitem(function.loops, "cpu", lambda *args: (called.append(name), loop(*args))[1])
    rng = np.random.default_rng(1)
    x, upstream = (rng.standard_normal((3, 5, 7)).astype("float32") for _ in range(2))
    layer = make(0.3, seed=1)
    drawn = [value_and_gradient(lambda x: layer(x, training=True), x, upstream) for _ in range(2)]
    assert called == [name] * 4
    monkeypatch.setitem(function.loops, "cpu", None)
    layer = make(0.3, seed=1)
    np.testing.assert_array_equal(
        drawn, [value_and_gradient(lambda x: layer(x, training=True), x, upstream) for _ in range(2)]
    )
