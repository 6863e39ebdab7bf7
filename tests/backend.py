"""What the tests need of each backend: gradients, compilation, and NumPy arrays."""

import contextlib
import hashlib

import keras
import numpy as np
from keras import ops, tree

BACKEND = keras.backend.backend()
KERAS_VERSION = tuple(map(int, keras.__version__.split(".")[:2]))
# Before Keras 3.15 its files leave out what is in a list or tuple within another.
NESTED_LISTS_ARE_SAVED = KERAS_VERSION >= (3, 15)
# PyTorch 2.13 cannot look into the functions of Keras 3.12.
FULLGRAPH = KERAS_VERSION > (3, 12)

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch


def to_numpy(x):
    return np.array(ops.convert_to_numpy(ops.cast(x, "float32")))


def train(layer, x):
    """One call in training, as float32."""
    return to_numpy(layer(tree.map_structure(ops.convert_to_tensor, x), training=True))


def multiplier(layer, shape):
    """What the layer multiplies its next input by: the answer to ones."""
    return train(layer, np.ones(shape, "float32"))


def digest(row):
    layer = row.make(row.golden_rate)
    ones = np.ones(row.shape, "float32")
    if row.mixes:
        x = ones.cumsum().reshape(row.shape)
    else:
        # Of equal elements it would not show which is chosen.
        x = np.cumsum(ones.ravel()).reshape(row.shape) % 8 if row.by_value and not row.product else ones
    x = row.inputs(x)
    calls = np.stack([train(layer, x) for _ in range(2)])
    if row.golden_digits is not None:
        calls = calls.round(row.golden_digits)
    return hashlib.sha256(calls.tobytes()).hexdigest()[:16]


def value_and_gradient(function, x, upstream):
    """`function(x)` and the gradient of `sum(function(x) * upstream)`, of the backend's own making."""
    x = ops.convert_to_tensor(x)
    if BACKEND == "tensorflow":
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return to_numpy(y), to_numpy(tape.gradient(y, x, tf.cast(upstream, y.dtype)))
    if BACKEND == "jax":
        y, pullback = jax.vjp(function, x)
        return to_numpy(y), to_numpy(pullback(ops.cast(upstream, y.dtype))[0])
    x.requires_grad_(True)
    y = function(x)
    y.backward(ops.cast(upstream, y.dtype))
    return to_numpy(y.detach()), to_numpy(x.grad)


def compiled_calls(layer, inputs, jit_compile=None):
    """Calls the layer in training on each input, within one compiled function, and returns the outputs."""
    inputs = tree.map_structure(ops.convert_to_tensor, inputs)
    if BACKEND == "tensorflow":
        call = tf.function(lambda x: layer(x, training=True), jit_compile=jit_compile)
        return [to_numpy(call(x)) for x in inputs]
    # Keras's attention makes layers as it is built, which PyTorch's compiler cannot.
    if not layer.built:
        layer.build(tree.map_structure(lambda x: x.shape, inputs[0]))
    if BACKEND == "torch":
        call = torch.compile(lambda x: layer(x, training=True), backend="inductor" if jit_compile else "aot_eager")
        return [to_numpy(call(x)) for x in inputs]
    step = jax.jit(lambda trained, others, x: layer.stateless_call(trained, others, x, training=True))
    trained, others = ([v.value for v in vs] for vs in (layer.trainable_variables, layer.non_trainable_variables))
    outputs = []
    for x in inputs:
        y, others = step(trained, others, x)
        outputs.append(to_numpy(y))
    return outputs


def calls_on_two_devices(make, x, calls):
    """What a layer makes of `x` on each of two devices: in the first call, then in the second."""
    if BACKEND == "tensorflow":
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with strategy.scope():
            layer = make()
        x = tree.map_structure(tf.constant, x)
        step = tf.function(lambda: strategy.run(lambda: layer(x, training=True)))
        return [to_numpy(y) for _ in range(calls) for y in strategy.experimental_local_results(step())]
    if BACKEND == "jax":
        mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
        x = tree.map_structure(lambda x: jax.device_put(np.concatenate([x, x]), sharding), x)
        assert all(len(x.addressable_shards) == 2 for x in tree.flatten(x))
        return [half for y in compiled_calls(make(), [x] * calls) for half in np.split(y, 2)]
    layers = [make() for _ in range(2)]
    outputs = []
    for _ in range(calls):
        for rank, layer in enumerate(layers):
            with distributed(rank):
                outputs.append(train(layer, x))
    return outputs


@contextlib.contextmanager
def distributed(rank, world_size=2):
    """This process as one of several in PyTorch's own process group."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def exported(model, x, folder):
    """Writes the model as a program for serving inputs like `x`, reads it back, and returns what it makes of `x`."""
    if BACKEND == "torch":
        x = torch.from_numpy(x)
        torch.export.save(torch.export.export(model, (x,), {"training": False}), folder / "served.pt2")
        return to_numpy(torch.export.load(folder / "served.pt2").module()(x, training=False).detach())
    import tensorflow as tf

    model.export(folder / "served", verbose=False)
    served = tf.saved_model.load(folder / "served")
    return served.serve(x).numpy()
