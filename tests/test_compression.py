"""What `compress` makes of models, and that its figures are right."""

import json

import keras
import numpy as np
import pytest
from backend import to_numpy
from keras import layers
from scipy import sparse

import keras_dropouts as kd

X = np.random.default_rng(0).standard_normal((5, 6, 8)).astype("float32")


def pruning(wrapped, **kwargs):
    """Of weights that begin as others do, about a half are below the threshold."""
    return kd.SparseVariationalDropout(wrapped, 0.001, initial_log_sigma2=1.0, **kwargs)


def sequential():
    conv = layers.Conv1D(5, 3, activation="relu", name="conv")
    parts = [pruning(conv, name="first"), kd.Dropout(0.5), pruning(layers.Dense(2), name="last")]
    return keras.Sequential([keras.Input((6, 8)), *parts])


def functional():
    """A layer called twice, two models with a layer of one name, and one within another layer."""
    inputs = keras.Input((6, 8))
    shared = pruning(layers.Dense(8, "tanh"), name="shared")
    x = shared(shared(inputs))
    for name in ("one", "other"):
        inner = [keras.Input((6, 8)), pruning(layers.Dense(8, use_bias=False), name="it"), layers.BatchNormalization()]
        x = keras.Sequential(inner, name=name)(x)
    return keras.Model(inputs, layers.TimeDistributed(pruning(layers.Dense(3)), name="times")(x))


@pytest.mark.parametrize("make", [sequential, functional])
def test_the_plain_model_predicts_what_the_pruned_one_does(make, tmp_path):
    model = make()
    for weight in model.weights:
        if "log_sigma2" in weight.path:
            weight.assign(np.random.default_rng(1).uniform(-6, 2, weight.shape))
        elif "bias" in weight.path or "mean" in weight.path:
            weight.assign(np.random.default_rng(2).standard_normal(weight.shape))
    before, expected = model.get_weights(), to_numpy(model(X))
    compressed = kd.compress(model)
    assert not any(hasattr(layer, "pruned_weights") for layer in compressed.model._flatten_layers())
    np.testing.assert_allclose(to_numpy(compressed.model(X)), expected, rtol=1e-5, atol=1e-5)
    # It would not without zeros.
    assert 0.2 < compressed.sparsity < 0.8
    compressed.model.save(tmp_path / "plain.keras")
    loaded = keras.saving.load_model(tmp_path / "plain.keras")
    np.testing.assert_array_equal(to_numpy(loaded(X)), to_numpy(compressed.model(X)))
    if make is functional:
        assert "keras_dropouts" not in json.dumps(compressed.model.get_config())
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    names = {sequential: ["first", "last"], functional: ["shared", "one.it", "other.it", "times.layer"]}[make]
    assert [layer.name for layer in compressed.layers] == names


def test_the_sizes_are_those_of_compressed_rows():
    model = sequential()
    model.layers[0].log_sigma2.assign(np.full((3, 8, 5), 9.0))
    # Too few zeros to be worth it.
    model.layers[-1].log_sigma2.assign(np.full((5, 2), -20.0))
    compressed = kd.compress(model)
    kernels = [to_numpy(layer.kernel) for layer in compressed.model.layers[::2]]
    rows = sparse.csr_matrix(kernels[0].reshape(-1, 5))
    first, last = compressed.layers
    assert first.sparse_bytes == rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes
    assert (first.weights, first.nonzero, first.dense_bytes) == (120, rows.nnz, 480)
    assert (last.nonzero, last.sparse_bytes, last.dense_bytes) == (10, 40, 40)
    assert first.sparsity == np.mean(kernels[0] == 0) and last.sparsity == 0
    assert compressed.dense_bytes == 4 * compressed.model.count_params()
    assert compressed.sparse_bytes == compressed.dense_bytes - first.dense_bytes + first.sparse_bytes
    assert compressed.ratio == 130 / (rows.nnz + 10)


def test_it_prints_a_table():
    model = keras.Sequential([keras.Input((3,)), pruning(layers.Dense(2, kernel_initializer="ones"), name="it")])
    model.layers[0].log_sigma2.assign([[0, 0], [0, 5], [5, 5]])
    assert str(kd.compress(model)).splitlines() == [
        "                 weights  not 0  sparsity  bytes  sparse bytes",
        "it                     6      3    50.00%     24            24",
        "these together         6      3    50.00%     24            24",
        "the whole model                               32            32",
        "2.0 weights for each that is not 0",
    ]


def test_types_and_training_are_those_of_the_wrapper():
    layer = pruning(layers.Dense(2, name="it"), dtype="mixed_bfloat16", trainable=False)
    model = keras.Sequential([keras.Input((6, 8)), layer])
    plain = kd.compress(model).model
    assert plain(X).dtype == model(X).dtype and plain.trainable_weights == []
    np.testing.assert_array_equal(to_numpy(plain(X)), to_numpy(model(X)))


def test_lora_is_merged():
    model = keras.Sequential([keras.Input((6, 8)), pruning(layers.Dense(4, lora_rank=2))])
    model.layers[0].layer.lora_kernel_b.assign(np.ones((2, 4)))
    compressed = kd.compress(model)
    assert len(compressed.model.weights) == 2
    np.testing.assert_allclose(to_numpy(compressed.model(X)), to_numpy(model(X)), rtol=1e-5, atol=1e-5)


@keras.saving.register_keras_serializable(package="test_compression")
class Halved(layers.Wrapper):
    """A wrapper of somebody else."""

    def call(self, inputs):
        kernel, bias = self.pruned_weights()
        return keras.ops.matmul(inputs, kernel) + bias

    def pruned_weights(self):
        kernel = keras.ops.convert_to_tensor(self.layer.kernel)
        return keras.ops.where(kernel > 0, kernel, 0), keras.ops.convert_to_tensor(self.layer.bias)


def test_what_has_the_hook_is_compressed():
    model = keras.Sequential([keras.Input((6, 8)), Halved(layers.Dense(4))])
    compressed = kd.compress(model)
    assert type(compressed.model.layers[0]) is layers.Dense and 0.2 < compressed.sparsity < 0.8
    np.testing.assert_allclose(to_numpy(compressed.model(X)), to_numpy(model(X)), rtol=1e-5, atol=1e-5)


def test_nothing_left_has_an_infinite_ratio():
    model = keras.Sequential([keras.Input((6, 8)), pruning(layers.Dense(4, kernel_initializer="zeros"))])
    compressed = kd.compress(model)
    assert (compressed.ratio, compressed.sparsity) == (np.inf, 1)


def test_bad_models_are_refused():
    with pytest.raises(ValueError, match=r"`model` must be a keras\.Model\. Received: model=5"):
        kd.compress(5)
    with pytest.raises(ValueError, match=r"(?s)`model` must have layers that prune.*Received: model=.* with Dense"):
        kd.compress(keras.Sequential([keras.Input((8,)), layers.Dense(2)]))
    model = keras.Sequential([keras.Input((8,)), pruning(layers.Dense(2))])
    model.layers[0].layer.quantize("int8")
    with pytest.raises(ValueError, match=r"(?s)`model` must not have quantized layers.*Received: model="):
        kd.compress(model)
