"""Random cases: a layer of the catalogue, valid arguments, a shape, a policy, a rate and a seed."""

import dataclasses

import keras
from catalog import ROWS, Row, dense, lstm, ranked
from hypothesis import strategies as st

FLAG = st.booleans()
FORMAT = st.sampled_from([None, "channels_last", "channels_first"])
PADDING = st.sampled_from(["valid", "same"])
SIZES = st.sampled_from([1, 2, 3, 5, 7, 8, 13, 16, 33])


def pools(rank):
    return {
        "pool_size": st.one_of(st.integers(1, 3), st.tuples(*[st.integers(1, 3)] * rank)),
        "strides": st.sampled_from([None, 1, 2, 3]),
        "padding": PADDING,
        "data_format": FORMAT,
    }


def blocks(rank):
    sizes = st.integers(1, 3)
    return {
        "block_size": st.one_of(sizes, st.tuples(*[sizes] * rank)),
        "per_channel": FLAG,
        "exact_rate": FLAG,
        "data_format": FORMAT,
    }


BANDS = {
    "max_width": st.integers(1, 5),
    "count": st.integers(1, 3),
    "proportion": st.sampled_from([0.1, 0.5, 1.0]),
    "fill": st.sampled_from([0.0, -1.5]),
}

# Valid values of the arguments, but for the rate, the seed and the layer. A case takes some of them.
ARGUMENTS = {
    "Dropout": {"scaling": st.sampled_from(["training", "inference"])},
    "TimestepDropout": {"data_format": FORMAT},
    "SpatialDropout1D": {"data_format": FORMAT},
    "SpatialDropout2D": {"data_format": FORMAT},
    "SpatialDropout3D": {"data_format": FORMAT},
    "SpatialAlphaDropout1D": {"data_format": FORMAT},
    "SpatialAlphaDropout2D": {"data_format": FORMAT},
    "SpatialAlphaDropout3D": {"data_format": FORMAT},
    "PatchDropout": {"prefix_tokens": st.integers(0, 1)},
    "DropBlock1D": blocks(1),
    "DropBlock2D": blocks(2),
    "DropBlock3D": blocks(3),
    "Cutout": {"length": st.integers(1, 6), "data_format": FORMAT},
    "TimeMasking": BANDS,
    "FrequencyMasking": BANDS,
    "ConditionDropout": {"null": st.sampled_from([0.0, -1.0, 3.0])},
    "ModalityDropout": {"all_share": st.sampled_from([0.0, 0.25])},
    "MaxDrop": {"across": st.sampled_from(["feature_map", "channels"]), "data_format": FORMAT},
    "WeightedChannelDropout": {"data_format": FORMAT},
    "MaxPoolingDropout1D": pools(1),
    "MaxPoolingDropout2D": pools(2),
    "MaxPoolingDropout3D": pools(3),
    "StochasticPooling1D": pools(1),
    "StochasticPooling2D": pools(2),
    "StochasticPooling3D": pools(3),
    "UniformDropout": {"spatial": FLAG},
    "Masksembles": {"masks": st.integers(2, 5), "scale": st.sampled_from([1.5, 2.0, 3.0])},
    "DropKey": {"axis": st.sampled_from([-1, (-1, -2)])},
    "MultiHeadAttention": {
        "value_dim": st.sampled_from([None, 3]),
        "use_bias": FLAG,
        "output_shape": st.sampled_from([None, 5]),
        "dropout": st.sampled_from([0.0, 0.3]),
    },
    "Standout": {"beta": st.sampled_from([-1.0, 0.5]), "beta_mode": st.sampled_from(["shift", "weights"])},
    "DropConnect": {"per_example": FLAG},
    "FastDropout": {"sampled": FLAG},
    "VariationalDropout": {
        "alphas": st.sampled_from(["layer", "unit", "weight"]),
        "noise": st.just("weights"),
    },
    "EmbeddingDropout": {"per_sequence": FLAG},
    "TargetedDropout": {"targeted": st.sampled_from([0.0, 0.3, 1.0]), "by": st.sampled_from(["weight", "unit"])},
    "WeightDrop": {"variational": FLAG},
    "VariationalRNNDropout": {"input_rate": st.sampled_from([None, 0.0, 0.4])},
    "Zoneout": {"cell_rate": st.sampled_from([None, 0.0, 0.7])},
}

RATES = st.sampled_from([0.0, 1e-5, 0.1, 1 / 3, 0.5, 0.999, 1.0])
# Of what is no rate.
PARAMETERS = {
    "SkipPath": st.sampled_from([0.0, 1e-5, 1 / 3, 0.5, 0.9]),
    "PatchDropout": st.sampled_from([0.0, 1e-5, 1 / 3, 0.5, 0.9]),
    "Standout": st.sampled_from([0.0, 1.0, -2.0, 30.0]),
    "VariationalDropout": st.sampled_from([1e-5, 0.1, 0.5]),
    "EmbeddingNoise": st.sampled_from([0.0, 1e-3, 5.0, 100.0]),
    "ConcreteDropout": st.sampled_from([1e-5, 0.1, 0.9]),
}
# Where a layer of Keras computes: on PyTorch some cannot be made in float16, and Dense without a bias makes float32 of
# float64; on TensorFlow MaxPooling3D takes no float64.
MIXED = st.sampled_from(["float32", "mixed_float16", "mixed_bfloat16"])
# JAX has no float64 unless told so.
WIDE = [] if keras.backend.backend() == "jax" else ["float64"]
POLICIES = MIXED | st.sampled_from(["float16", "bfloat16", *WIDE])
# Ranks that a layer takes, where that is not one.
RANKS = {
    **dict.fromkeys(["Dropout", "GaussianDropout", "UniformDropout", "AlphaDropout", "DropPath"], (2, 3, 4, 5)),
    **dict.fromkeys(["StochasticDepth", "ShakeDrop", "ShakeShake", "FractalJoin", "ConditionDropout"], (2, 3, 4)),
    **dict.fromkeys(["DropConnect", "FastDropout", "VariationalDropout", "SparseVariationalDropout"], (2, 3)),
    **dict.fromkeys(["Standout", "ConcreteDropout", "TargetedDropout", "Mixout"], (2, 3)),
    **dict.fromkeys(["TimeMasking", "FrequencyMasking"], (3, 4)),
}


CELLS = [keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN]


@st.composite
def wrapped(draw, row):
    """What makes a layer to wrap: a function, and its arguments."""
    if row.wrapped in (dense, ranked):
        activations = st.sampled_from([None, "relu", "tanh"])
        return keras.layers.Dense, {
            "units": draw(st.integers(1, 6)),
            "activation": draw(activations),
            "use_bias": draw(FLAG),
        }
    if row.wrapped is lstm:
        cell = keras.layers.LSTM if str(row) in ("RNNDrop", "RecurrentDropout") else draw(st.sampled_from(CELLS))
        flags = {name: draw(FLAG) for name in ("return_sequences", "go_backwards")}
        return cell, {"units": draw(st.integers(1, 5)), "unroll": True, **flags}
    return row.wrapped, {}


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer of the catalogue with arguments of its own.

    Attributes:
        row: The layer's.
        arguments: The constructor's, but for the wrapped layer, the seed and the policy.
        layer: What makes the layer that it wraps, and the arguments of that, or `None`.
        shape: The shape of an input.
        open: The axes that are unknown when it is called with symbols.
        policy: The name of its dtype policy.
        seed: Its seed, and that of the input.
    """

    row: Row
    arguments: dict
    layer: tuple | None
    shape: tuple
    open: tuple
    policy: str
    seed: int

    def make(self):
        arguments = dict(self.arguments)
        if self.layer:
            kind, own = self.layer
            arguments["layer"] = kind(**own, dtype=self.policy) if own else kind()
        return (self.row.called or self.row.layer)(**arguments, seed=self.seed, dtype=self.policy)

    @property
    def product(self):
        """Whether training multiplies the input, which this is not where something else is put in its place."""
        return self.row.product and not self.arguments.get("fill") and not self.arguments.get("null")

    @property
    def identity(self):
        """Whether inference gives the input."""
        return self.row.identity and self.arguments.get("scaling") != "inference"


@st.composite
def cases(draw, row=None):
    row = row or draw(st.sampled_from(ROWS))
    name = str(row)
    arguments = dict(row.arguments)
    for argument, values in ARGUMENTS.get(name, {}).items():
        if draw(FLAG):
            arguments[argument] = draw(values)
    if row.rated:
        rates = RATES if row.accepts_max else RATES.filter(lambda rate: rate < 1)
        arguments[row.parameter] = draw(rates)
    elif row.parameter:
        arguments[row.parameter] = draw(PARAMETERS[name])
    layer = draw(wrapped(row)) if row.wrapped else None
    rank = draw(st.sampled_from(RANKS.get(name, (len(row.shape),))))
    # What has weights must know the last axis, and with it the laws' ways to make inputs of one tensor.
    sized = bool(row.wrapped or row.weights or row.merges)
    shape = [draw(SIZES) for _ in range(rank)]
    if name == "Masksembles":
        shape[-1] += 9
    # Of size 0 is one axis of some: the rest does not matter then. Keras's recurrent layers and PyTorch's pooling fail.
    if draw(st.integers(0, 7)) == 0 and row.wrapped is not lstm and row.keeps_masks:
        shape[draw(st.integers(0, rank - sized - 1))] = 0
    return Case(
        row=row,
        arguments=arguments,
        layer=layer,
        shape=tuple(shape),
        open=tuple(axis for axis in range(1, rank - sized) if draw(FLAG)),
        policy=draw(MIXED if row.plain else POLICIES),
        seed=draw(st.sampled_from([0, 7, 2**32 - 1])),
    )
