"""The layers the laws hold for, one row each, with the facts the laws need.

`python tests/catalog.py` writes the table of them, in `docs/layers.md`.
"""

import dataclasses
import inspect
import math
import pathlib
import re
from collections.abc import Callable

import keras
import numpy as np
import pytest

import keras_dropouts as kd


def nearest(rate):
    """The rate that a mask drawn with 16 bits an element has."""
    return round(float(np.float32(rate)) * 65536) / 65536


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer and its facts.

    Attributes:
        layer: The class.
        shape: The shape of an input, not square, not a multiple of 4.
        golden: What `digest` gives, on every backend.
        golden_rate: The rate of that: one with a scale that is a power of 2, where the layer sums what it scales. Only
            then are the sums the same whatever their order, which a processor chooses.
        golden_digits: To how many digits after the point that is, where it is of functions that each backend computes
            in its own way.
        drops: What one draw decides, for readers.
        arguments: The constructor's arguments but for the parameter and the seed.
        wrapped: Makes the layer it wraps.
        plain: Makes the layer of Keras that it is at rate 0: for the products, none.
        inputs: What it is called with, of one tensor.
        parameter: The name of the argument that says how much, if there is one.
        rated: Whether the parameter is a rate: a number up to a largest one, or a schedule, that may be set late.
            Standout's is the factor of a logit.
        tied: The axes along which one draw serves.
        dependent: The axes along which draws differ, but are not independent.
        area: The mean, and the mean square, of the part of what it decides on that a draw drops.
        true_rate: The rate at which it drops in fact, at a rate.
        by_value: Whether the input decides which part that is. In an input of ones it is the first element.
        mask: Whether the multiplier is 0 or one number. Else it is noise.
        scaled: Whether a mask scales what it keeps, so that the mean stays.
        by_share: Whether a mask scales by the share it kept, not by the one expected.
        by_own_share: Whether it scales each sample by the share it kept of that.
        std: The standard deviation of noise at a rate.
        mean: The mean of noise at a rate.
        shakes: Whether the backward pass multiplies by other noise than the forward pass, on purpose.
        max_rate: The largest value allowed; itself excluded where it is not attained.
        accepts_max: Whether it is attained.
        keeps_masks: Whether a mask of timesteps fits the output.
        product: Whether the output in training is the input times the multiplier. Else that has no one value for each
            element: the input is pooled, or a wrapped layer computes with what is drawn.
        constant: What a mask puts in the place of what it drops, at a rate, if that is not 0. What it keeps is no
            product then, but scaled and shifted.
        adds: Whether it is a sum, of which what is drawn multiplies one part, and there is another.
        adds_losses: Whether a call in training adds to the losses, which on TensorFlow and JAX no checkpoint may hide.
        by_index: Whether it is called with indices, which have no gradient.
        shortens: Whether training leaves a part of axis 1 out.
        identity: Whether inference gives the input. StochasticDepth scales it.
        prunes: Whether inference drops what training may drop, whatever the rate.
        by_sample: Whether samples have draws of their own. Else a call has one, too few for statistics: the layer's
            own test compares each with the oracle.
        mixes: Whether what becomes of a sample depends on the others of its batch.
        by_batch: Whether it depends on how many there are.
        integers: Whether it takes integers too.
        weights: How many weights it has itself.
        called: What is made in its place, a subclass that is called with one tensor.
    """

    layer: type
    shape: tuple
    golden: str
    drops: str
    arguments: dict = dataclasses.field(default_factory=dict)
    wrapped: Callable | None = None
    plain: Callable | None = None
    inputs: Callable = lambda x: x
    parameter: str | None = "rate"
    rated: bool = True
    golden_rate: float = 0.3
    golden_digits: int | None = None
    tied: tuple = ()
    dependent: tuple = ()
    area: tuple = (1.0, 1.0)
    true_rate: Callable = lambda rate: rate
    by_value: bool = False
    mask: bool = True
    scaled: bool = True
    by_share: bool = False
    by_own_share: bool = False
    std: Callable | None = None
    mean: Callable = lambda rate: 1.0
    shakes: bool = False
    max_rate: float = 1.0
    accepts_max: bool = True
    keeps_masks: bool = True
    product: bool = True
    constant: Callable | None = None
    adds: bool = False
    adds_losses: bool = False
    by_index: bool = False
    shortens: bool = False
    identity: bool = True
    prunes: bool = False
    by_sample: bool = True
    mixes: bool = False
    by_batch: bool = False
    integers: bool = False
    weights: int = 0
    called: type | None = None

    def make(self, rate, seed=7, **kwargs):
        wrapped = {"layer": self.wrapped()} if self.wrapped else {}
        parameter = {self.parameter: rate} if self.parameter else {}
        return (self.called or self.layer)(**parameter, seed=seed, **wrapped, **self.arguments, **kwargs)

    def drawing(self, layer):
        """The layer that draws: one that it holds, or itself."""
        return getattr(layer, "dropout_layer", layer)

    def groups(self, shape):
        """How many independent draws an input of `shape` takes."""
        return math.prod(n for axis, n in enumerate(shape) if axis not in self.tied + self.dependent)

    def kept(self, m, rate):
        """What the mask that drew the multiplier `m` scales by where it keeps."""
        if not self.scaled:
            return 1.0
        if self.by_own_share:
            return 1 / np.mean(m != 0, tuple(range(1, m.ndim)), keepdims=True)
        return m.size / np.count_nonzero(m) if self.by_share else 1 / (1 - nearest(rate))

    def dropped(self, rate):
        """The share that a mask drops at a rate, and how that deviates from one independent draw to the next."""
        mean, square = (self.true_rate(rate) * moment for moment in self.area)
        return mean, math.sqrt(square - mean**2)

    @property
    def merges(self):
        """Whether it takes something else than one tensor of numbers."""
        return self.inputs is not Row.inputs

    @property
    def drops_for_sure(self):
        """A rate at which no call is as at rate 0."""
        return self.max_rate if self.accepts_max else 0.5

    def __str__(self):
        return self.layer.__name__


def dense():
    """A layer to wrap, whose output of ones is exact whatever the order of its sums."""
    return keras.layers.Dense(6, "relu", kernel_initializer="ones", bias_initializer="ones")


def embedding():
    """A layer to wrap, whose output is ones."""
    return keras.layers.Embedding(64, 6, "ones")


def indices_of(x):
    """Indices for it, others from one timestep to the next where a sequence is of ones."""
    indices = keras.ops.cast(4 * keras.ops.abs(x), "int32") + keras.ops.arange(x.shape[1], dtype="int32")
    return keras.ops.mod(indices, 64)


EIGHTH = keras.initializers.Constant(1 / 8)


@keras.saving.register_keras_serializable(package="catalog")
class SelfAttention(kd.MultiHeadAttention):
    """Of a tensor with itself."""

    def build(self, shape):
        super().build(shape, shape)

    def call(self, inputs, training=None):
        return super().call(inputs, inputs, training=training)

    def compute_output_spec(self, inputs, training=None):
        return super().compute_output_spec(inputs, inputs)

    def compute_output_shape(self, shape, *others):
        return super().compute_output_shape(shape, shape)


@keras.saving.register_keras_serializable(package="catalog")
def all_different(shape, dtype=None):
    """Weights of as many magnitudes as there are, in no order, whose sums are exact."""
    size = math.prod(shape)
    return keras.ops.convert_to_tensor(((37 * np.arange(size) % size + 1) / 8).reshape(shape).astype("float32"))


def ranked():
    """A layer to wrap, of weights that can be told apart by their magnitude."""
    return keras.layers.Dense(6, "relu", kernel_initializer=all_different, bias_initializer="ones")


@keras.saving.register_keras_serializable(package="catalog")
def half_open(x):
    # Not `full_like`, for which Keras reads the number back from PyTorch.
    return keras.ops.ones_like(x) / 2


def doubling():
    """A layer to wrap, of weights, that makes 2 x + 1 of inputs of any number of features."""
    ones = {"depthwise_initializer": keras.initializers.Constant(2), "bias_initializer": "ones"}
    layer = keras.layers.DepthwiseConv1D(1, data_format="channels_last", **ones)
    # It takes timesteps one by one.
    layer.supports_masking = True
    return layer


def lstm():
    """A layer to wrap, whose output of ones is exact: powers of 2 everywhere, and few timesteps.

    Unrolled, for JAX compiles a loop anew in each eager call.
    """
    initializers = {"kernel_initializer": EIGHTH, "recurrent_initializer": EIGHTH}
    return keras.layers.LSTM(6, "relu", half_open, return_sequences=True, unroll=True, **initializers)


@keras.saving.register_keras_serializable(package="catalog")
class Mixout(kd.Mixout):
    # The pretrained weights are 0, as if training had changed all of them.
    def add_weight(self, *args, **kwargs):
        return super().add_weight(*args, **{**kwargs, "initializer": "zeros"})


def cutout_area(length, *size):
    """The mean, and the mean square, of the part of an image that a square covers which is centred on any pixel."""
    moments = np.ones(2)
    for n in size:
        begin = np.arange(n) - length // 2
        covered = (np.clip(begin + length, 0, n) - np.clip(begin, 0, n)) / n
        moments *= [covered.mean(), (covered**2).mean()]
    return tuple(moments)


def band_area(max_width, size):
    """The same for a band of any width up to the largest, all equally likely."""
    widths = np.arange(max_width + 1) / size
    return widths.mean(), (widths**2).mean()


def least_of_selu(rate):
    """What alpha dropout puts in the place of what it drops: SELU's least value, scaled and shifted."""
    least, keep = -1.7580993408473766, 1 - nearest(rate)
    return least * keep / math.sqrt(keep + least**2 * keep * (1 - keep))


@keras.saving.register_keras_serializable(package="catalog")
class ModalityDropout(kd.ModalityDropout):
    """Returns the two modalities as one tensor again, of which the laws speak."""

    def call(self, inputs, training=False):
        return keras.ops.concatenate(super().call(inputs, training=training), axis=-1)

    def compute_output_shape(self, input_shape):
        (*shape, one), (*_, other) = input_shape
        return *shape, None if None in (one, other) else one + other

    def compute_mask(self, inputs, previous_mask):
        return previous_mask[0]


def two_modalities(x):
    first = x.shape[-1] * 2 // 5
    return [x[..., :first], x[..., first:]]


def residual_alone(x):
    """A shortcut of zeros, and the residual branch."""
    return [keras.ops.zeros_like(x), x]


ROWS = [
    Row(kd.Dropout, shape=(3, 5, 7), golden="9d7f2b5595c79c31", drops="elements"),
    Row(kd.TimestepDropout, shape=(3, 7, 5), golden="11692997cd59427f", drops="timesteps", tied=(2,)),
    Row(kd.SpatialDropout1D, shape=(3, 7, 5), golden="0f591c8c2db7dc85", drops="channels of a sequence", tied=(1,)),
    Row(kd.SpatialDropout2D, shape=(3, 5, 7, 6), golden="dbf4104282784bc0", drops="channels of an image", tied=(1, 2)),
    Row(
        kd.SpatialDropout3D,
        shape=(3, 2, 5, 3, 6),
        golden="2ddea36c64f6b8f0",
        drops="channels of a volume",
        tied=(1, 2, 3),
    ),
    Row(kd.DropPath, shape=(11, 3, 5), golden="30c29418593b882d", drops="the residual branch of a sample", tied=(1, 2)),
    Row(
        kd.StochasticDepth,
        shape=(3, 5, 7),
        golden="9ce9c81aff7f75ea",
        drops="a residual branch, for a whole batch",
        inputs=residual_alone,
        tied=(0, 1, 2),
        scaled=False,
        identity=False,
        by_sample=False,
    ),
    Row(
        kd.ShakeDrop,
        shape=(11, 3, 5),
        golden="54b3223b0f7128cc",
        drops="nothing: multiplies the residual branch of a sample by noise, and its gradient by other noise",
        tied=(1, 2),
        mask=False,
        mean=lambda rate: 1 - rate,
        std=lambda rate: math.sqrt(4 / 3 * rate - rate**2),
        shakes=True,
        identity=False,
    ),
    Row(
        kd.ShakeShake,
        shape=(11, 3, 5),
        golden="b944a922fd70ac73",
        drops="nothing: mixes two residual branches of a sample in random shares, and the gradient in others",
        inputs=residual_alone,
        parameter=None,
        rated=False,
        tied=(1, 2),
        mask=False,
        mean=lambda rate: 1 / 2,
        std=lambda rate: math.sqrt(1 / 12),
        shakes=True,
        accepts_max=False,
        identity=False,
    ),
    Row(
        kd.FractalJoin,
        shape=(11, 3, 5),
        golden="e3b895bd446655ea",
        drops="paths of a sample that are joined, of which one survives",
        # With a path of zeros the mean of two is a product.
        plain=keras.layers.Average,
        inputs=residual_alone,
        tied=(1, 2),
        mask=False,
        mean=lambda rate: 1 / 2,
        std=lambda rate: math.sqrt(rate / 2 - rate**2 / 4),
        identity=False,
    ),
    Row(
        kd.SkipPath,
        shape=(3, 5, 7),
        golden="06eb6cd151cd4410",
        drops="the residual branch of so many samples, which is not computed for them",
        wrapped=doubling,
        plain=doubling,
        rated=False,
        product=False,
        identity=False,
        by_sample=False,
        by_batch=True,
    ),
    Row(
        kd.LayerDrop,
        shape=(3, 5, 7),
        golden="98f3e9c4cee8301c",
        drops="a layer, for a whole batch",
        wrapped=doubling,
        plain=doubling,
        product=False,
        identity=False,
        by_sample=False,
    ),
    Row(
        kd.PatchDropout,
        shape=(5, 9, 7),
        golden="d13ef5fc0a2e9eeb",
        drops="tokens of a sequence, which gets shorter",
        rated=False,
        product=False,
        shortens=True,
    ),
    Row(
        kd.DropBlock1D,
        shape=(3, 11, 6),
        golden="907840b35c284a1d",
        drops="runs of positions in a channel",
        arguments={"block_size": 3, "exact_rate": True},
        dependent=(1,),
        by_share=True,
    ),
    Row(
        kd.DropBlock2D,
        shape=(3, 5, 7, 6),
        golden="4dd5de1bbabd65ab",
        drops="rectangles in a channel",
        arguments={"block_size": (2, 3), "exact_rate": True},
        dependent=(1, 2),
        by_share=True,
    ),
    Row(
        kd.DropBlock3D,
        shape=(3, 4, 5, 3, 6),
        golden="e0dbff17441d1a78",
        drops="cuboids in a channel",
        arguments={"block_size": 2, "exact_rate": True},
        dependent=(1, 2, 3),
        by_share=True,
    ),
    Row(
        kd.Cutout,
        shape=(9, 5, 7, 2),
        golden="bfd65faddf191dd6",
        drops="a square of an image",
        arguments={"length": 4},
        tied=(3,),
        dependent=(1, 2),
        area=cutout_area(4, 5, 7),
        scaled=False,
    ),
    Row(
        kd.TimeMasking,
        shape=(9, 11, 3, 2),
        golden="b4209188155ad16e",
        drops="bands of a spectrogram's timesteps",
        arguments={"max_width": 6},
        tied=(2, 3),
        dependent=(1,),
        area=band_area(6, 11),
        scaled=False,
    ),
    Row(
        kd.FrequencyMasking,
        shape=(9, 3, 11, 2),
        golden="3d7f4a8c738fd052",
        drops="bands of a spectrogram's frequencies",
        arguments={"max_width": 6},
        tied=(1, 3),
        dependent=(2,),
        area=band_area(6, 11),
        scaled=False,
    ),
    Row(
        kd.ConditionDropout,
        shape=(11, 3, 5),
        golden="b98512f0948da8f3",
        drops="the condition of a sample",
        tied=(1, 2),
        scaled=False,
        integers=True,
    ),
    Row(
        ModalityDropout,
        shape=(11, 3, 5),
        golden="967a92440d3afb27",
        drops="one of the inputs of a sample",
        inputs=two_modalities,
        tied=(1,),
        dependent=(2,),
        # Two fifths of the elements, or three.
        area=(0.5, 0.26),
        scaled=False,
        identity=False,
    ),
    Row(
        kd.SwapNoise,
        shape=(9, 7),
        golden="2bd5c7b581e87936",
        drops="nothing: replaces entries of a table by others of their column",
        product=False,
        mixes=True,
        integers=True,
    ),
    Row(
        kd.MaxDrop,
        shape=(3, 5, 7, 6),
        golden="31bc37bc746ac7a5",
        drops="the largest element of a feature map, or of the channels of a position",
        dependent=(1, 2),
        area=(1 / 35, 1 / 35**2),
        by_value=True,
        scaled=False,
    ),
    Row(
        kd.WeightedChannelDropout,
        shape=(11, 3, 8),
        golden="5c9488d78bf0bdae",
        golden_rate=0.5,
        drops="so many channels, the less active ones more often",
        tied=(1,),
        dependent=(2,),
        by_value=True,
        mask=False,
        std=lambda rate: math.sqrt(8 / max(int(8 * (1 - rate)), 1) - 1),
    ),
    Row(
        kd.MaxPoolingDropout1D,
        shape=(3, 11, 6),
        golden="1c62404fa07cf0d6",
        drops="elements of a sequence, before the maximum of each window is taken",
        plain=keras.layers.MaxPooling1D,
        keeps_masks=False,
        product=False,
        identity=False,
    ),
    Row(
        kd.MaxPoolingDropout2D,
        shape=(3, 5, 7, 6),
        golden="e6ec347b1d44ed34",
        drops="elements of an image, before the maximum of each window is taken",
        plain=keras.layers.MaxPooling2D,
        keeps_masks=False,
        product=False,
        identity=False,
    ),
    Row(
        kd.MaxPoolingDropout3D,
        shape=(3, 4, 5, 2, 6),
        golden="20e5ffaa4b145114",
        drops="elements of a volume, before the maximum of each window is taken",
        plain=keras.layers.MaxPooling3D,
        keeps_masks=False,
        product=False,
        identity=False,
    ),
    Row(
        kd.StochasticPooling1D,
        shape=(3, 11, 6),
        golden="e12061829f063159",
        drops="all elements of a window of a sequence but one, the larger ones less often",
        parameter=None,
        rated=False,
        plain=keras.layers.MaxPooling1D,
        by_value=True,
        keeps_masks=False,
        product=False,
        accepts_max=False,
        identity=False,
    ),
    Row(
        kd.StochasticPooling2D,
        shape=(3, 5, 7, 6),
        golden="0ce62c3c7fab5eea",
        drops="all elements of a window of an image but one, the larger ones less often",
        parameter=None,
        rated=False,
        plain=keras.layers.MaxPooling2D,
        by_value=True,
        keeps_masks=False,
        product=False,
        accepts_max=False,
        identity=False,
    ),
    Row(
        kd.StochasticPooling3D,
        shape=(3, 4, 5, 2, 6),
        golden="b91ffc7f15af78ce",
        drops="all elements of a window of a volume but one, the larger ones less often",
        parameter=None,
        rated=False,
        plain=keras.layers.MaxPooling3D,
        by_value=True,
        keeps_masks=False,
        product=False,
        accepts_max=False,
        identity=False,
    ),
    Row(
        kd.GaussianDropout,
        shape=(3, 5, 7),
        golden="3310beab834a6c23",
        drops="nothing: multiplies elements by Gaussian noise",
        mask=False,
        std=lambda rate: math.sqrt(rate / (1 - rate)),
        accepts_max=False,
    ),
    Row(
        kd.UniformDropout,
        shape=(3, 5, 7),
        golden="a99925b994bf7b7e",
        drops="nothing: multiplies elements by uniform noise",
        parameter="beta",
        mask=False,
        std=lambda beta: beta / math.sqrt(3),
    ),
    Row(
        kd.AlphaDropout,
        shape=(3, 5, 7),
        golden="6995ff83c7682c5b",
        drops="elements, to the least value of SELU",
        product=False,
        constant=least_of_selu,
        adds=True,
    ),
    Row(
        kd.SpatialAlphaDropout1D,
        shape=(3, 7, 5),
        golden="98140929ada477eb",
        drops="channels of a sequence, to the least value of SELU",
        tied=(1,),
        product=False,
        constant=least_of_selu,
        adds=True,
    ),
    Row(
        kd.SpatialAlphaDropout2D,
        shape=(3, 5, 7, 6),
        golden="d1ef450f35a2418b",
        drops="channels of an image, to the least value of SELU",
        tied=(1, 2),
        product=False,
        constant=least_of_selu,
        adds=True,
    ),
    Row(
        kd.SpatialAlphaDropout3D,
        shape=(3, 2, 5, 3, 6),
        golden="c917fb577d65c16e",
        drops="channels of a volume, to the least value of SELU",
        tied=(1, 2, 3),
        product=False,
        constant=least_of_selu,
        adds=True,
    ),
    Row(
        kd.Masksembles,
        shape=(3, 5, 11),
        golden="b09ceb57bed6b0b7",
        drops="channels, by one of a few fixed masks",
        # The masks take turns, and three of them are not in turn after the calls that a law makes.
        arguments={"masks": 3},
        parameter=None,
        rated=False,
        tied=(1,),
        scaled=False,
        accepts_max=False,
        identity=False,
        by_sample=False,
        weights=1,
    ),
    Row(
        kd.DropHead,
        shape=(11, 3, 5, 2),
        golden="2b8ee55bf2b36f9e",
        drops="heads of an attention",
        tied=(1, 3),
        dependent=(2,),
        true_rate=lambda rate: (rate - rate**5) / (1 - rate**5),
        by_own_share=True,
    ),
    Row(
        kd.DropKey,
        shape=(3, 2, 5, 7),
        golden="02e0ff45ffb1f866",
        golden_digits=3,
        drops="keys of an attention, before the softmax",
        plain=keras.layers.Softmax,
        accepts_max=False,
        product=False,
        identity=False,
    ),
    Row(
        kd.MultiHeadAttention,
        # Of four keys, whose equal weights are exact.
        shape=(3, 4, 7),
        golden="99dd47daf9fdfc4e",
        # As many as the exact ones have.
        golden_digits=5,
        drops="attention weights, or keys by DropKey, or heads by DropHead",
        arguments={"num_heads": 2, "key_dim": 4, "dropout": 0.5, "kernel_initializer": EIGHTH},
        parameter=None,
        rated=False,
        product=False,
        identity=False,
        weights=8,
        called=SelfAttention,
    ),
    Row(
        kd.Standout,
        shape=(3, 5, 7),
        golden="3464c8bfe6f96f9b",
        drops="units, the less active ones more often",
        wrapped=dense,
        plain=dense,
        parameter="alpha",
        rated=False,
        product=False,
        identity=False,
    ),
    Row(
        kd.DropConnect,
        shape=(3, 5, 7),
        golden="c902531ba7433f1a",
        drops="weights and biases",
        wrapped=dense,
        plain=dense,
        product=False,
        identity=False,
    ),
    Row(
        kd.FastDropout,
        shape=(3, 5, 7),
        golden="e31f08291cdedaef",
        golden_rate=0.5,
        drops="nothing: adds the Gaussian noise that dropping a layer's inputs comes to",
        wrapped=dense,
        plain=dense,
        accepts_max=False,
        product=False,
        adds=True,
        identity=False,
    ),
    Row(
        kd.VariationalDropout,
        shape=(3, 5, 7),
        golden="e31f08291cdedaef",
        golden_rate=0.5,
        drops="nothing: adds to a layer's weights, or inputs, Gaussian noise whose size it learns",
        arguments={"kl_weight": 0.001},
        wrapped=dense,
        plain=dense,
        rated=False,
        product=False,
        adds=True,
        adds_losses=True,
        identity=False,
        weights=1,
    ),
    Row(
        kd.SparseVariationalDropout,
        shape=(3, 5, 7),
        golden="e31f08291cdedaef",
        drops="weights that it learns to be little but noise, for good",
        # The variance of weights of 1 is 1.
        arguments={"kl_weight": 0.001, "initial_log_sigma2": 0.0},
        wrapped=dense,
        plain=dense,
        parameter=None,
        rated=False,
        product=False,
        adds=True,
        adds_losses=True,
        identity=False,
        weights=1,
    ),
    Row(
        kd.EmbeddingDropout,
        shape=(5, 7),
        golden="8beffb36657daa48",
        drops="rows of an embedding's table",
        wrapped=embedding,
        plain=embedding,
        inputs=indices_of,
        by_index=True,
        arguments={"per_sequence": True},
        keeps_masks=False,
        product=False,
        identity=False,
    ),
    Row(
        kd.EmbeddingNoise,
        shape=(3, 5, 7),
        golden="474ca3ee396cea2f",
        drops="nothing: adds uniform noise to embeddings",
        parameter="alpha",
        rated=False,
        product=False,
        adds=True,
    ),
    Row(
        kd.ConcreteDropout,
        shape=(3, 5, 7),
        golden="79eb852ea357bf57",
        golden_digits=3,
        drops="elements of what a layer reads, or channels of what a convolution reads, at a rate that is learnt",
        wrapped=dense,
        plain=dense,
        parameter="initial_rate",
        rated=False,
        product=False,
        identity=False,
        weights=1,
    ),
    Row(
        kd.TargetedDropout,
        shape=(3, 5, 7),
        golden="ce5bf79b92a76ad5",
        drops="the smallest weights of each unit, at inference for good",
        wrapped=ranked,
        plain=ranked,
        product=False,
        identity=False,
        prunes=True,
        by_sample=False,
    ),
    Row(
        Mixout,
        shape=(3, 5, 7),
        golden="116a004f1180b564",
        golden_rate=0.5,
        drops="nothing: puts pretrained weights in the place of weights and biases",
        wrapped=dense,
        plain=dense,
        product=False,
        identity=False,
        by_sample=False,
        weights=2,
    ),
    Row(
        kd.WeightDrop,
        shape=(5, 3, 7),
        golden="7a37366f818fc8b0",
        golden_rate=0.5,
        drops="weights by which a recurrent layer reads its own output, in all timesteps; or those of a dense layer",
        wrapped=lstm,
        plain=lstm,
        product=False,
        identity=False,
        by_sample=False,
    ),
    Row(
        kd.VariationalRNNDropout,
        shape=(5, 3, 7),
        golden="316bc60062dc7b07",
        golden_rate=0.5,
        drops="features of what a recurrent layer reads from its input and its own output, in all timesteps",
        wrapped=lstm,
        plain=lstm,
        product=False,
        identity=False,
    ),
    Row(
        kd.RNNDrop,
        shape=(5, 3, 7),
        golden="5a85d05a1bd9fccb",
        golden_rate=0.5,
        drops="elements of a recurrent layer's memory, in all timesteps",
        wrapped=lstm,
        plain=lstm,
        product=False,
        identity=False,
    ),
    Row(
        kd.RecurrentDropout,
        shape=(5, 3, 7),
        golden="c246f5ba819cdc10",
        golden_rate=0.5,
        drops="elements of what a timestep adds to a recurrent layer's memory",
        wrapped=lstm,
        plain=lstm,
        product=False,
        identity=False,
    ),
    Row(
        kd.Zoneout,
        shape=(5, 3, 7),
        golden="963be3f3fd00ff01",
        drops="nothing: keeps elements of a recurrent layer's states as in the timestep before",
        wrapped=lstm,
        plain=lstm,
        product=False,
        identity=False,
    ),
]


def rows(**facts):
    """Parametrizes a test by the rows that have these facts, each true or false: `@rows(mask=True, wrapped=False)`."""
    chosen = [row for row in ROWS if all(bool(getattr(row, name)) == value for name, value in facts.items())]
    assert chosen, f"No row of the catalogue has {facts}."
    return pytest.mark.parametrize("row", chosen, ids=str)


def with_table(text):
    """The page with the table of layers as the catalogue has it."""
    table = ["| layer | what it drops | source |", "|---|---|---|"]
    for row in ROWS:
        reference = re.search(r"\nReference:\n(.*?)(\n\n|$)", inspect.getdoc(getattr(kd, str(row))), re.DOTALL)
        table.append(f"| `{row}` | {row.drops} | {' '.join(reference[1].split())} |")
    return re.sub(
        r"(<!-- layers: .*? -->\n).*(<!-- end of layers -->)", rf"\1{chr(10).join(table)}\n\2", text, flags=re.DOTALL
    )


PAGE = pathlib.Path(__file__).parents[1] / "docs" / "layers.md"

if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
