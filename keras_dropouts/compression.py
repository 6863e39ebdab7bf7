"""Models without the weights that a wrapper has pruned."""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from keras_dropouts.keras_internals import all_layers
from keras_dropouts.surgery import in_its_place, operated

# Of an index in a sparse format.
INDEX_BYTES = 4


@dataclasses.dataclass(frozen=True)
class CompressedLayer:
    """What became of the kernel of one layer.

    Attributes:
        name: Where it is in the model: its name, after those of the models and layers that hold it.
        weights: How many weights the kernel has.
        nonzero: How many of them are not 0.
        dense_bytes: What the kernel takes as it is.
        sparse_bytes: What it takes in compressed rows, or as it is where that is less.
    """

    name: str
    weights: int
    nonzero: int
    dense_bytes: int
    sparse_bytes: int

    @property
    def sparsity(self) -> float:
        """The share of the weights that are 0."""
        return 1 - self.nonzero / self.weights if self.weights else 0.0


@dataclasses.dataclass(frozen=True)
class Compression:
    """What `compress` returns. Printed, it is a table.

    Attributes:
        model: The pruned model, of plain Keras layers.
        layers: A `CompressedLayer` for each layer that was pruned: `name`, `weights`, `nonzero`, `sparsity`,
            `dense_bytes`, `sparse_bytes`.
        dense_bytes: What all weights of the model take as they are, biases and other layers too.
        sparse_bytes: The same, with each pruned kernel in compressed rows where that is less.

    Example:

    >>> import keras
    >>> from keras_dropouts import SparseVariationalDropout, compress
    >>> layer = SparseVariationalDropout(keras.layers.Dense(50), 0.001, initial_log_sigma2=0.0)
    >>> compressed = compress(keras.Sequential([keras.Input((40,)), layer]))
    >>> compressed.model.layers[0].__class__.__name__, compressed.sparse_bytes < compressed.dense_bytes
    ('Dense', True)
    """

    model: keras.Model = dataclasses.field(repr=False)
    layers: tuple[CompressedLayer, ...]
    dense_bytes: int
    sparse_bytes: int

    @property
    def sparsity(self) -> float:
        """The share of the weights in the pruned kernels that are 0."""
        return self._total.sparsity

    @property
    def ratio(self) -> float:
        """How many weights the pruned kernels have for each that is not 0: a paper's "compression".

        It counts neither biases nor the indices by which a sparse format finds a weight. Infinite where all are 0.
        """
        return self._total.weights / self._total.nonzero if self._total.nonzero else math.inf

    @property
    def _total(self):
        sums = [sum(values) for values in zip(*(dataclasses.astuple(layer)[1:] for layer in self.layers), strict=True)]
        return CompressedLayer("these together", *sums)

    def __str__(self):
        model = CompressedLayer("the whole model", 0, 0, self.dense_bytes, self.sparse_bytes)
        rows = [["", "weights", "not 0", "sparsity", "bytes", "sparse bytes"]]
        for layer in (*self.layers, self._total, model):
            counts = [f"{layer.weights}", f"{layer.nonzero}", f"{layer.sparsity:.2%}"]
            rows.append([layer.name, *(["", "", ""] if layer is model else counts)])
            rows[-1] += [f"{layer.dense_bytes}", f"{layer.sparse_bytes}"]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            "  ".join([name.ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(cells, widths[1:], strict=True))])
            for name, *cells in rows
        )
        return "\n".join([*lines, f"{self.ratio:.1f} weights for each that is not 0"])


def compress(model: keras.Model) -> Compression:
    """Returns a plain Keras model without what the layers of a model have pruned, and how much smaller it is.

    In the place of each wrapper that prunes, such as `SparseVariationalDropout`, is the layer that it wraps, with zeros
    where weights are pruned: the predictions are those of the model at inference. The copy can be saved, loaded without
    this package (if no other layer is of it), quantized and exported; it is not compiled, and trained further its zeros
    would not stay. Keras has no sparse layers: what the zeros save, the report says, and a compressed file or a runtime
    that knows sparse kernels makes true. Nested models, shared layers and layers within others are worked on as by
    `replace`.

    A size in bytes counts all weights of the plain model, in the types they have, each kernel as it is or, if that is
    less, in compressed sparse rows of the matrix whose columns are its last axis: its value and a column of 4 bytes for
    each weight that is not 0, and 4 bytes for each row and one more. What training alone needs is in neither size. A
    layer of your own that has a method `pruned_weights()`, which returns kernel and bias (or `None`) with zeros in
    place, and an attribute `layer`, is worked on too.

    Args:
        model: A Sequential or functional `keras.Model`, built, with wrappers that prune.

    Returns:
        A `Compression`.

    Raises:
        ValueError: Where the model is not as described, or a wrapped layer is quantized: compress first.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import SparseVariationalDropout, compress
    >>> layer = SparseVariationalDropout(keras.layers.Dense(2, kernel_initializer="ones", name="dense"), 0.001)
    >>> model = keras.Sequential([keras.Input((2,)), layer])
    >>> _ = layer.log_sigma2.assign([[0.0, 0.0], [0.0, 9.0]])
    >>> compressed = compress(model)
    >>> compressed.model.get_weights()[0].tolist(), compressed.sparsity
    ([[1.0, 1.0], [1.0, 0.0]], 0.25)
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a keras.Model. Received: model={model!r}")
    parts = all_layers(model)
    if not any(map(_prunes, parts)):
        raise ValueError(
            f"`model` must have layers that prune, such as SparseVariationalDropout. "
            f"Received: model={model!r}, with {', '.join(sorted({type(part).__name__ for part in parts}))}"
        )
    quantized = [part.layer for part in parts if _prunes(part) and part.layer.quantization_mode is not None]
    if quantized:
        raise ValueError(
            f"`model` must not have quantized layers among those that are pruned: compress first, then quantize. "
            f"Received: model={model!r} with {quantized[0]!r}"
        )
    plain, rows = operated(model, _prunes, _plain, in_its_place)
    layers = []
    for wrapper, (path, (layer,)) in rows.items():
        values = [x for x in wrapper.pruned_weights() if x is not None]
        for variable, value in zip(layer.weights, values, strict=True):
            variable.assign(value)
        layers.append(_measured(path, layer))
    dense_bytes = sum(_bytes(weight) for weight in plain.weights)
    saved = sum(layer.dense_bytes - layer.sparse_bytes for layer in layers)
    return Compression(plain, tuple(layers), dense_bytes, dense_bytes - saved)


def _prunes(layer):
    return hasattr(layer, "pruned_weights")


def _plain(wrapper):
    """Returns a new layer that is as the one that a wrapper holds."""
    # That a layer has LoRA its config says; here it is merged.
    config = {name: value for name, value in wrapper.layer.get_config().items() if name != "lora_rank"}
    plain = type(wrapper.layer).from_config(config)
    plain.dtype_policy, plain.trainable = wrapper.dtype_policy, wrapper.trainable
    return plain


def _measured(path, layer):
    kernel = ops.convert_to_numpy(ops.cast(layer.kernel, "float32"))
    nonzero, item = int(np.count_nonzero(kernel)), _bytes(layer.kernel) // max(1, kernel.size)
    sparse = nonzero * (item + INDEX_BYTES) + (math.prod(kernel.shape[:-1]) + 1) * INDEX_BYTES
    dense = _bytes(layer.kernel)
    return CompressedLayer(path, kernel.size, nonzero, dense, min(dense, sparse))


def _bytes(variable):
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return math.prod(variable.shape) * (1 if dtype == "bool" else int("".join(filter(str.isdigit, dtype))) // 8)
