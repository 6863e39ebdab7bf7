"""The layers that are measured: all of ours, Keras's own or the nearest to it, peers, and the floor under them all."""

import functools
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import ops

import keras_dropouts as kd

NONE, FLOOR = "no layer", "x * 2"
OURS, KERAS, PEER = "ours", "Keras's", "peer"
CNN, MLP, SMALL_MLP, TRANSFORMER = "residual CNN", "MLP", "small MLP", "Transformer block"
TOKENS, ATTENTION = "Transformer block of tokens", "attention"
LSTM, GRU = "LSTM", "GRU"
SEQUENCES, VOLUMES, DEPTH = "CNN of sequences", "CNN of volumes", "sums of branches"
BLOCKS = "residual blocks"
POOLING1D, POOLING2D, POOLING3D = "pooled sequences", "pooled images", "pooled volumes"


class Twice(keras.layers.Layer):
    """The cheapest layer that touches every element."""

    def call(self, inputs, training=False):
        return inputs * 2 if training else inputs


class MaxPoolDropBlock(keras.layers.Layer):
    """DropBlock as other libraries write it: floats compared with gamma, spread by max-pooling; channels last."""

    def __init__(self, rate, block_size):
        super().__init__()
        self.rate, self.block_size = rate, block_size
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs, training=False):
        if not training:
            return inputs
        batch, *size, channels = ops.shape(inputs)
        block = self.block_size
        valid = [n - block + 1 for n in size]
        gamma = self.rate
        for n, v in zip(size, valid, strict=True):
            gamma *= n / (block * v)
        seeds = keras.random.uniform((batch, *valid, channels), seed=self.seed_generator) < gamma
        seeds = ops.pad(ops.cast(seeds, inputs.dtype), [(0, 0), *[(block - 1, block - 1)] * len(size), (0, 0)])
        mask = 1 - ops.max_pool(seeds, block, strides=1)
        return inputs * mask * (ops.cast(ops.size(mask), mask.dtype) / ops.sum(mask))


def _torch_peers():
    """Other people's layers on PyTorch, by the name of ours that they do the work of."""
    import torch

    class Peer(keras.layers.TorchModuleWrapper):
        def call(self, inputs, training=False):
            return super().call(inputs, training=training)

        def compute_output_shape(self, input_shape):
            return input_shape

    class ChannelsLast(Peer):
        def call(self, inputs, training=False):
            return super().call(inputs.permute(0, 3, 1, 2), training).permute(0, 2, 3, 1)

    peers = {"Dropout": lambda: Peer(torch.nn.Dropout(0.2))}
    if importlib.util.find_spec("dropblock"):
        from dropblock import DropBlock2D

        peers["DropBlock2D"] = lambda: ChannelsLast(DropBlock2D(0.1, 7))
    return peers


PEERS = _torch_peers() if keras.backend.backend() == "torch" else {}


class Kind(NamedTuple):
    """A layer of ours and what it is measured against.

    Attributes:
        networks: Those that it suits, by name.
        ours: Makes it.
        keras: Makes what Keras has that does the same work, or the nearest to it.
        nearest: What that is, where it is not a layer of the same name.
        instead: Whether these are functions of a layer of the network and its inputs, and stand in place of it. Else
            they make what comes after it.
    """

    networks: tuple
    ours: Callable
    keras: Callable | None = None
    nearest: str = ""
    instead: bool = False


def _shared(noise_shape):
    return lambda: keras.layers.Dropout(0.2, noise_shape=noise_shape)


def _tied_alpha(*space):
    return lambda: keras.layers.AlphaDropout(0.2, noise_shape=(None, *space, None))


TIED_ALPHA = "AlphaDropout with a noise shape"


def _pooling(ours):
    """Dropped before the maximum of each window is taken."""
    return {
        "ours": lambda pool, x: ours(0.2)(x),
        "keras": lambda pool, x: pool(keras.layers.Dropout(0.2)(x)),
        "nearest": "Dropout before MaxPooling",
        "instead": True,
    }


def _dense(ours):
    return {
        "ours": lambda dense, x: ours(dense)(x),
        "keras": lambda dense, x: keras.layers.Dropout(0.5)(dense(x)),
        "nearest": "Dropout",
        "instead": True,
    }


def _recurrent(ours, **dropouts):
    return {
        "ours": lambda rnn, x: ours(rnn, 0.2)(x),
        "keras": lambda rnn, x: type(rnn).from_config({**rnn.get_config(), **dropouts})(x),
        "nearest": "the layer's own " + " and ".join(f"`{name}`" for name in dropouts),
        "instead": True,
    }


def _attention(dropout):
    return {
        "ours": lambda attention, x: attention(x, kd.MultiHeadAttention, dropout=dropout()),
        "keras": lambda attention, x: attention(x, dropout=0.2),
        "nearest": "its own `dropout`",
        "instead": True,
    }


def _by_sample(layer, inputs):
    x = layer(inputs)
    return _shared((None, *[1] * (len(x.shape) - 1)))()(x)


def _on_branch(ours):
    """Called with the residual branch, before it is added."""

    def drop(add, inputs):
        shortcut, branch = inputs
        return add([shortcut, ours()(branch)])

    return drop


def _dropped_path(block, inputs):
    return keras.layers.add([inputs, _by_sample(block.branch, inputs)])


def _by_batch(add, inputs):
    shortcut, branch = inputs
    return add([shortcut, _shared((1, 1, 1, 1))()(branch)])


LAYERS = {
    "Dropout": Kind((CNN, MLP, TRANSFORMER), lambda: kd.Dropout(0.2), lambda: keras.layers.Dropout(0.2)),
    "GaussianDropout": Kind(
        (CNN, MLP, TRANSFORMER), lambda: kd.GaussianDropout(0.2), lambda: keras.layers.GaussianDropout(0.2)
    ),
    "SpatialDropout2D": Kind((CNN,), lambda: kd.SpatialDropout2D(0.2), lambda: keras.layers.SpatialDropout2D(0.2)),
    "DropBlock2D": Kind(
        (CNN,), lambda: kd.DropBlock2D(0.1, 7), lambda: MaxPoolDropBlock(0.1, 7), "a DropBlock by max-pooling"
    ),
    "UniformDropout": Kind(
        (CNN,), lambda: kd.UniformDropout(0.2), lambda: keras.layers.GaussianDropout(0.2), "GaussianDropout"
    ),
    "DropPath": Kind(
        (CNN, TRANSFORMER),
        lambda layer, inputs: kd.DropPath(0.2)(layer(inputs)),
        _by_sample,
        "Dropout with a noise shape",
        instead=True,
    ),
    "WeightedChannelDropout": Kind(
        (CNN,), lambda: kd.WeightedChannelDropout(0.2), lambda: keras.layers.SpatialDropout2D(0.2), "SpatialDropout2D"
    ),
    "EmbeddingDropout": Kind(
        (TOKENS,),
        lambda embedding, x: kd.EmbeddingDropout(embedding)(x),
        lambda embedding, x: keras.layers.Dropout(0.1, noise_shape=(None, None, 1))(embedding(x)),
        "Dropout with a noise shape",
        instead=True,
    ),
    "EmbeddingNoise": Kind(
        (TOKENS,), lambda: kd.EmbeddingNoise(5), lambda: keras.layers.GaussianNoise(0.016), "GaussianNoise"
    ),
    "PatchDropout": Kind((TOKENS,), lambda: kd.PatchDropout(0.5)),
    "TimeMasking": Kind((SEQUENCES,), lambda: kd.TimeMasking(32)),
    "FrequencyMasking": Kind((SEQUENCES,), lambda: kd.FrequencyMasking(16)),
    "ConditionDropout": Kind(
        (MLP,), lambda: kd.ConditionDropout(0.1), _shared((None, 1)), "Dropout with a noise shape"
    ),
    "ModalityDropout": Kind((DEPTH,), lambda add, inputs: add(kd.ModalityDropout(0.2)(inputs)), instead=True),
    "SwapNoise": Kind((MLP,), lambda: kd.SwapNoise(0.15)),
    "MaxDrop": Kind((CNN,), lambda: kd.MaxDrop(0.2)),
    "AlphaDropout": Kind((CNN,), lambda: kd.AlphaDropout(0.2), lambda: keras.layers.AlphaDropout(0.2)),
    "SpatialAlphaDropout2D": Kind((CNN,), lambda: kd.SpatialAlphaDropout2D(0.2), _tied_alpha(1, 1), TIED_ALPHA),
    "Masksembles": Kind((CNN,), lambda: kd.Masksembles(4, 2.0)),
    "Cutout": Kind(
        (CNN,),
        lambda: kd.Cutout(14),
        lambda: keras.layers.RandomErasing(1.0, (0.25, 0.25), 0.0, (0, 1)),
        "RandomErasing",
    ),
    "Dropout(CurriculumDropout)": Kind(
        (CNN,), lambda: kd.Dropout(kd.CurriculumDropout(0.2, 0.01)), lambda: keras.layers.Dropout(0.2), "Dropout"
    ),
    "StochasticDepth": Kind(
        (DEPTH,),
        lambda add, inputs: kd.StochasticDepth(0.2)(inputs),
        _by_batch,
        "Dropout with a noise shape, before Add",
        instead=True,
    ),
    "ShakeDrop": Kind((DEPTH,), _on_branch(lambda: kd.ShakeDrop(0.2)), instead=True),
    "ShakeShake": Kind((DEPTH,), _on_branch(lambda: lambda branch: kd.ShakeShake()([branch, branch])), instead=True),
    "FractalJoin": Kind((DEPTH,), lambda add, inputs: kd.FractalJoin(0.15)(inputs), instead=True),
    "LayerDrop": Kind((BLOCKS,), lambda block, x: kd.LayerDrop(block, 0.2)(x), instead=True),
    "SkipPath": Kind(
        (BLOCKS,),
        lambda block, x: kd.SkipPath(block.branch, 0.5)(x),
        _dropped_path,
        "Dropout with a noise shape on the branch",
        instead=True,
    ),
    "SpatialDropout1D": Kind(
        (SEQUENCES,), lambda: kd.SpatialDropout1D(0.2), lambda: keras.layers.SpatialDropout1D(0.2)
    ),
    "TimestepDropout": Kind(
        (SEQUENCES,), lambda: kd.TimestepDropout(0.2), _shared((None, None, 1)), "Dropout with a noise shape"
    ),
    "DropBlock1D": Kind(
        (SEQUENCES,), lambda: kd.DropBlock1D(0.1, 7), lambda: MaxPoolDropBlock(0.1, 7), "a DropBlock by max-pooling"
    ),
    "SpatialAlphaDropout1D": Kind((SEQUENCES,), lambda: kd.SpatialAlphaDropout1D(0.2), _tied_alpha(1), TIED_ALPHA),
    "SpatialDropout3D": Kind((VOLUMES,), lambda: kd.SpatialDropout3D(0.2), lambda: keras.layers.SpatialDropout3D(0.2)),
    "SpatialAlphaDropout3D": Kind((VOLUMES,), lambda: kd.SpatialAlphaDropout3D(0.2), _tied_alpha(1, 1, 1), TIED_ALPHA),
    "DropBlock3D": Kind(
        (VOLUMES,), lambda: kd.DropBlock3D(0.1, 3), lambda: MaxPoolDropBlock(0.1, 3), "a DropBlock by max-pooling"
    ),
    "MaxPoolingDropout1D": Kind((POOLING1D,), **_pooling(kd.MaxPoolingDropout1D)),
    "MaxPoolingDropout2D": Kind((POOLING2D,), **_pooling(kd.MaxPoolingDropout2D)),
    "MaxPoolingDropout3D": Kind((POOLING3D,), **_pooling(kd.MaxPoolingDropout3D)),
    "StochasticPooling1D": Kind((POOLING1D,), lambda pool, x: kd.StochasticPooling1D()(x), instead=True),
    "StochasticPooling2D": Kind((POOLING2D,), lambda pool, x: kd.StochasticPooling2D()(x), instead=True),
    "StochasticPooling3D": Kind((POOLING3D,), lambda pool, x: kd.StochasticPooling3D()(x), instead=True),
    "Standout": Kind((MLP,), **_dense(kd.Standout)),
    "FastDropout": Kind((MLP,), **_dense(kd.FastDropout)),
    "VariationalDropout": Kind((MLP,), **_dense(functools.partial(kd.VariationalDropout, kl_weight=1e-5))),
    "VariationalDropout(noise='inputs')": Kind(
        (MLP,), **_dense(functools.partial(kd.VariationalDropout, kl_weight=1e-5, noise="inputs"))
    ),
    "SparseVariationalDropout": Kind((MLP,), **_dense(functools.partial(kd.SparseVariationalDropout, kl_weight=1e-5))),
    "TargetedDropout": Kind((MLP,), **_dense(kd.TargetedDropout)),
    "Mixout": Kind((MLP,), **_dense(kd.Mixout)),
    "ConcreteDropout": Kind((MLP,), **_dense(kd.ConcreteDropout)),
    # With weights for each example, which takes as many times the work.
    "DropConnect": Kind((SMALL_MLP,), **_dense(kd.DropConnect)),
    "DropConnect(per_example=False)": Kind((MLP,), **_dense(functools.partial(kd.DropConnect, per_example=False))),
    "MultiHeadAttention": Kind((ATTENTION,), **_attention(lambda: 0.2) | {"nearest": ""}),
    "DropKey": Kind((ATTENTION,), **_attention(lambda: kd.DropKey(0.2))),
    "DropHead": Kind((ATTENTION,), **_attention(lambda: kd.DropHead(0.2))),
    "VariationalRNNDropout": Kind(
        (LSTM, GRU), **_recurrent(kd.VariationalRNNDropout, dropout=0.2, recurrent_dropout=0.2)
    ),
    "RecurrentDropout": Kind((LSTM, GRU), **_recurrent(kd.RecurrentDropout, recurrent_dropout=0.2)),
    "WeightDrop": Kind((LSTM, GRU), **_recurrent(kd.WeightDrop, recurrent_dropout=0.2)),
    "RNNDrop": Kind((LSTM,), **_recurrent(kd.RNNDrop, recurrent_dropout=0.2)),
    "Zoneout": Kind((LSTM, GRU), **_recurrent(kd.Zoneout, recurrent_dropout=0.2)),
}


# Those that can be called alone on images.
ALONE = [name for name, kind in LAYERS.items() if CNN in kind.networks and not kind.instead]


def makers(*names):
    """Functions that make a layer, by name and whose it is: the floor, then those of `names`."""
    made = {(FLOOR, OURS): Twice}
    for name in names:
        kind = LAYERS[name]
        made |= {(name, OURS): kind.ours, (name, KERAS): kind.keras, (name, PEER): PEERS.get(name)}
    return {which: make for which, make in made.items() if make}


def drops(*names):
    """The same, and none, as functions of a layer of a network and its inputs."""

    def after(make, layer, inputs):
        return make()(layer(inputs))

    return {(NONE, OURS): lambda layer, inputs: layer(inputs)} | {
        (name, whose): make if name in LAYERS and LAYERS[name].instead else functools.partial(after, make)
        for (name, whose), make in makers(*names).items()
    }
