import functools
from typing import Any

import keras
from keras.initializers import Initializer
from keras.optimizers.schedules import LearningRateSchedule

from keras_dropouts.keras_internals import attention_with, hold_dropout, twin
from keras_dropouts.layers.arguments import Rate, Sizes, checked_rate, checked_seed
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.layers.drop_head import DropHead
from keras_dropouts.layers.drop_key import DropKey
from keras_dropouts.layers.dropout import Dropout

# Arguments that Keras 3.12 has not, and their defaults.
NEW_IN_KERAS = {"use_gate": False, "sliding_window": None}


@keras.saving.register_keras_serializable(package="keras_dropouts")
class MultiHeadAttention(keras.layers.MultiHeadAttention):
    """Attends with several heads, and drops attention weights, keys or heads while training.

    The real `keras.layers.MultiHeadAttention`, subclassed: the same arguments, weights and files, and a dropout that is
    one of this package, exact in its rate in every dtype and with its random state saved along with the model. At
    inference it is Keras's without dropout, fused and flash kernels included, which Keras's gives up wherever its
    `dropout` is not 0. In training such kernels stay with `DropHead`; dropout of weights and of keys computes the
    scores.

    Args:
        num_heads, key_dim, value_dim: As for `keras.layers.MultiHeadAttention`, which explains all but these two:
        dropout: What is dropped while training. A number in `[0, 1]`, or a
            `keras.optimizers.schedules.LearningRateSchedule`, is the rate of dropping attention weights, after the
            softmax: `keras_dropouts.Dropout`, scaled by the probability of keeping. `DropKey(0.3)` drops keys, before
            the softmax; `DropHead(0.2)` drops whole heads; any other layer for a rate is applied to the attention
            weights, of shape `(batch, heads, queries, keys)`. A layer takes on the type of the attention. 0 drops
            nothing, now and later.
        use_bias, output_shape, attention_axes, sliding_window, flash_attention: As there.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, activity_regularizer: As there.
        kernel_constraint, bias_constraint, use_gate: As there.
        seed: `None`, or an integer in `[0, 2**32)`, for a `dropout` that is a rate. A layer has its own.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        query, value, key: The tensors to attend from and to; `key` is `value` unless given.
        attention_mask: Which keys a query attends to, a boolean tensor that broadcasts to
            `(batch, queries, keys)`, beside the Keras masks of the inputs.
        return_attention_scores: Whether to return the attention weights, too: as the softmax gives them, without the
            keys that DropKey drops, before any other dropout.
        training: Whether to drop.
        use_causal_mask: Whether a query attends to no later key.

    Input shape:
        `(batch, queries, features)`, and `(batch, keys, features)` twice.

    Output shape:
        The query's, or with `output_shape` in place of the features.

    Raises:
        ValueError: Where `dropout` or `seed` is not as described.

    Reference:
        Vaswani et al., "Attention Is All You Need", NIPS 2017, arXiv 1706.03762. Dropout of the attention weights is in
        the authors' program, tensor2tensor, not in the paper.

    The layer that drops is `dropout_layer`: its rate may be set at any time, `attention.dropout_layer.rate = 0.1`. Keys
    are dropped at rates that fall with the depth of the block: for block `l` of `depth`, counted from 1, it is
    `linear_rates(0.3, depth)[-l]`.

    Example:

    >>> import keras
    >>> from keras_dropouts import DropKey, MultiHeadAttention, linear_rates
    >>> x = inputs = keras.Input((10, 16))
    >>> for rate in reversed(linear_rates(0.3, depth=3)):
    ...     x = keras.layers.add([x, MultiHeadAttention(2, 8, dropout=DropKey(rate))(x, x)])
    >>> [round(layer.dropout.rate, 3) for layer in keras.Model(inputs, x).layers if hasattr(layer, "dropout")]
    [0.3, 0.2, 0.1]
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: Rate | RandomLayer = 0.0,
        use_bias: bool = True,
        output_shape: Sizes | None = None,
        attention_axes: Sizes | None = None,
        sliding_window: int | None = None,
        flash_attention: bool | None = None,
        kernel_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        use_gate: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ):
        given = {"use_gate": use_gate, "sliding_window": sliding_window}
        super().__init__(
            num_heads,
            key_dim,
            value_dim,
            use_bias=use_bias,
            output_shape=output_shape,
            attention_axes=attention_axes,
            flash_attention=flash_attention,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            seed=checked_seed(seed),
            **{name: value for name, value in given.items() if value != NEW_IN_KERAS[name]},
            **kwargs,
        )
        self._by_rate = not isinstance(dropout, RandomLayer)
        drop: RandomLayer | None = None
        if isinstance(dropout, RandomLayer):
            drop = dropout
            # It computes with what the attention does.
            drop.dtype_policy = self.dtype_policy
        else:
            rate = checked_rate("dropout", dropout, 1.0, ", or a keras_dropouts.RandomLayer, as in DropKey(0.3)")
            if isinstance(rate, LearningRateSchedule) or rate > 0:
                drop = Dropout(rate, seed=seed, dtype=self.dtype_policy, name="dropout")
        self.dropout_layer = drop

    @property
    def dropout(self):
        """What is dropped, as it was given: a rate, or the layer."""
        if self.dropout_layer is None:
            return 0.0
        return self.dropout_layer.rate if self._by_rate else self.dropout_layer

    def build(self, query_shape, value_shape, key_shape=None):
        super().build(query_shape, value_shape, key_shape)
        if self.dropout_layer is not None:
            hold_dropout(self, self.dropout_layer)

    def call(
        self,
        query,
        value,
        key=None,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
    ):
        attention = self if self.dropout_layer is None else attention_with(self, **self._dropping(training))
        return keras.layers.MultiHeadAttention.call(
            attention,
            query,
            value,
            key=key,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            return_attention_scores=return_attention_scores,
            training=training,
            use_causal_mask=use_causal_mask,
        )

    def _dropping(self, training):
        """Returns what drops in a call, by the part of the attention that it belongs to."""
        drop = self.dropout_layer
        if not drop._trains(training):
            return {}
        part = "heads" if isinstance(drop, DropHead) else "weights"
        if isinstance(drop, DropKey):
            part, drop = "softmax", twin(drop, axis=tuple(range(-len(self.attention_axes), 0)))
        return {part: functools.partial(drop, training=training)}

    def get_config(self):
        dropout = self.dropout
        if not isinstance(dropout, float):
            dropout = keras.saving.serialize_keras_object(dropout)
        return {**super().get_config(), "dropout": dropout}

    @classmethod
    def from_config(cls, config):
        if isinstance(config.get("dropout"), dict):
            config = {**config, "dropout": keras.saving.deserialize_keras_object(config["dropout"])}
        return super().from_config(config)
