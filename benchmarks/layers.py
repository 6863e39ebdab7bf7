"""The layers that are measured: ours, Keras's own, peers, and the floor under them all."""

import importlib.util

import keras
from keras import ops

import keras_dropouts as kd

FLOOR = "x * 2"


class Twice(keras.layers.Layer):
    """The cheapest layer that touches every element."""

    def call(self, inputs, training=False):
        return inputs * 2 if training else inputs


class MaxPoolDropBlock2D(keras.layers.Layer):
    """DropBlock as other libraries write it: floats compared with gamma, spread by max-pooling; channels last."""

    def __init__(self, rate, block_size):
        super().__init__()
        self.rate, self.block_size = rate, block_size
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs, training=False):
        if not training:
            return inputs
        batch, height, width, channels = ops.shape(inputs)
        block = self.block_size
        valid = (height - block + 1, width - block + 1)
        gamma = self.rate * height * width / (block**2 * valid[0] * valid[1])
        seeds = keras.random.uniform((batch, *valid, channels), seed=self.seed_generator) < gamma
        margin = [(0, 0), (block - 1, block - 1), (block - 1, block - 1), (0, 0)]
        seeds = ops.pad(ops.cast(seeds, inputs.dtype), margin)
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

    peers = {"Dropout": {"torch.nn.Dropout": lambda: Peer(torch.nn.Dropout(0.2))}}
    if importlib.util.find_spec("dropblock"):
        from dropblock import DropBlock2D

        peers["DropBlock2D"] = {"dropblock.DropBlock2D": lambda: ChannelsLast(DropBlock2D(0.1, 7))}
    return peers


PEERS = _torch_peers() if keras.backend.backend() == "torch" else {}

# By the name of ours: ours first, then those that do the same work.
LAYERS = {
    "Dropout": {"Dropout": lambda: kd.Dropout(0.2), "keras Dropout": lambda: keras.layers.Dropout(0.2)},
    "SpatialDropout2D": {
        "SpatialDropout2D": lambda: kd.SpatialDropout2D(0.2),
        "keras SpatialDropout2D": lambda: keras.layers.SpatialDropout2D(0.2),
    },
    "GaussianDropout": {
        "GaussianDropout": lambda: kd.GaussianDropout(0.2),
        "keras GaussianDropout": lambda: keras.layers.GaussianDropout(0.2),
    },
    "DropBlock2D": {
        "DropBlock2D": lambda: kd.DropBlock2D(0.1, 7),
        "max-pool DropBlock2D": lambda: MaxPoolDropBlock2D(0.1, 7),
    },
}


def makers(*names):
    """Functions that make a layer, by name: the floor, then those of `names`, ours and others."""
    chosen = {FLOOR: Twice}
    for name in names:
        chosen |= LAYERS[name] | PEERS.get(name, {})
    return chosen
