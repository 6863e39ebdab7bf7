import itertools
from typing import Any

import keras
from keras import ops, tree
from keras.layers import GRUCell, LSTMCell, SimpleRNNCell

from keras_dropouts import random
from keras_dropouts.keras_internals import twin
from keras_dropouts.layers.arguments import Rate
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.layers.layer_wrapper import LayerWrapper

LAYERS = (keras.layers.RNN, keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN)


def _of_layer(name):
    return property(lambda self: getattr(self.layer, name), lambda self, value: setattr(self.layer, name, value))


class RecurrentWrapper(LayerWrapper, RandomLayer):
    """Base of the methods that drop within the time loop of a recurrent layer.

    They wrap the layer, not its cell: a cell is called inside the loop, where nothing may be drawn (on JAX the
    generator would leak a tracer, or give every timestep the same bits), and is told of nothing but its inputs and
    states. A layer is called before the loop. Everything is drawn there; masks for each timestep travel to the cell
    with the inputs of that timestep. The states stay those of the wrapped layer, and with them `initial_state`,
    `return_state`, `stateful`, `go_backwards`, `unroll`, padding masks, unknown lengths, and
    `keras.layers.Bidirectional` around the wrapper.

    In training Keras's loop calls `_step` in place of the cells; at inference the layer runs as it is. A subclass says
    what is drawn for a cell in `_draws`, and what is done with it in `_step`.

    Args:
        layer: A `keras.layers.LSTM`, `GRU` or `SimpleRNN`, or a `keras.layers.RNN` of their cells, one or several.
        rate: As for `keras_dropouts.Dropout`.
        seed: `None`, or an integer in `[0, 2**32)`.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: Where an argument is not as described.
    """

    # The cells that the method has a meaning for, other layers, and whether it draws for each timestep anew.
    cells: tuple[type, ...] = (LSTMCell, GRUCell, SimpleRNNCell)
    others: tuple[type, ...] = ()
    every_step = False

    # What keras.layers.Bidirectional asks a recurrent layer for.
    go_backwards, return_sequences, return_state, stateful, zero_output_for_mask = map(
        _of_layer, ("go_backwards", "return_sequences", "return_state", "stateful", "zero_output_for_mask")
    )

    def __init__(self, layer: keras.layers.RNN, rate: Rate, seed: int | None = None, **kwargs: Any):
        # No subclasses of layers or cells: what they do in another way would be lost.
        cells = cells_of(layer) if type(layer) in LAYERS else []
        if type(layer) not in self.others and (not cells or any(type(cell) not in self.cells for cell in cells)):
            names = [kind.__name__.removesuffix("Cell") for kind in self.others + self.cells]
            raise ValueError(
                f"`layer` must be a keras.layers.{' or '.join(names)}, or a keras.layers.RNN of such cells; to have "
                f"both directions, put the wrapped layer into keras.layers.Bidirectional. Received: layer={layer!r}"
            )
        for cell in cells:
            if cell.dropout or cell.recurrent_dropout:
                raise ValueError(
                    f"`layer` must not drop beside {type(self).__name__}: dropout=0, recurrent_dropout=0. Received: "
                    f"layer={layer!r} with dropout={cell.dropout}, recurrent_dropout={cell.recurrent_dropout}"
                )
        super().__init__(layer, rate=rate, seed=seed, **kwargs)
        if cells:
            self.input_spec = keras.InputSpec(ndim=3)

    def _draws(self, cell, rate):
        """Returns a list of pairs, for each mask that a step of the cell takes: its size, and the rate to drop at."""
        return [(cell.units, rate)]

    def _step(self, cell, inputs, states, masks):
        """Returns the states after a step, the first of which is its output.

        Args:
            cell: A cell of the layer.
            inputs: Those of the timestep, of shape `(samples, features)`.
            states: A list of those before.
            masks: An iterator over the masks: pairs of what to keep and the scale of that, for `select`.
        """
        raise NotImplementedError

    def build(self, sequences_shape, initial_state_shape=None):
        super().build(sequences_shape)

    def call(self, sequences, initial_state=None, mask=None, training=False):
        if isinstance(self.layer, keras.layers.RNN) and sequences.shape[1] == 0:
            raise ValueError(
                f"`sequences` must have a timestep or more. Received: sequences of shape {tuple(sequences.shape)}"
            )
        sequences = ops.cast(sequences, self.compute_dtype)
        if not self._trains(training):
            return self.inference_call(sequences, initial_state, mask)
        return self.training_call(sequences, initial_state, mask, *self._next_draw())

    def training_call(self, sequences, initial_state, mask, key, rate):
        sizes, rates = self._all_draws(rate)
        samples, timesteps, features = ops.shape(sequences)
        noise = random.uniform(key, (samples, timesteps if self.every_step else 1, sum(sizes)))
        keeps = [
            part > 1 - random.keep_probability(rate) for part, rate in zip(split(noise, sizes), rates, strict=True)
        ]
        scales = [random.keep_scale(rate) for rate in rates]
        if self.every_step:
            sequences = ops.concatenate([sequences, *(ops.cast(keep, sequences.dtype) for keep in keeps)], axis=-1)

        def masks_for(inputs):
            now = [keep[:, 0] for keep in keeps]
            if self.every_step:
                inputs, now = inputs[:, :features], split(inputs[:, features:] > 0, sizes)
            return inputs, zip(now, scales, strict=True)

        return self._loop(sequences, initial_state, mask, masks_for)

    def inference_call(self, sequences, initial_state, mask):
        outputs = self.layer.call(sequences, initial_state=initial_state, mask=mask, training=False)
        return self._in_own_type(outputs)

    def _all_draws(self, rate):
        """Returns the sizes and the rates of all masks that a step of the layer takes."""
        sizes, rates = zip(*(draw for cell in cells_of(self.layer) for draw in self._draws(cell, rate)), strict=True)
        return sizes, [ops.convert_to_tensor(rate, "float32") for rate in rates]

    def _loop(self, sequences, initial_state, mask, masks_for):
        """Runs the layer's loop over `_step`; `masks_for(inputs)` parts what the loop reads into inputs and masks."""
        cell = self.layer.cell
        stacked = isinstance(cell, keras.layers.StackedRNNCells)

        def step(inputs, states):
            inputs, masks = masks_for(inputs)
            after = []
            for part, before in zip(cells_of(self.layer), states if stacked else [states], strict=True):
                new = self._step(part, inputs, tree.flatten(before), masks)
                after.append(tree.pack_sequence_as(before, new))
                inputs = new[0]
            return inputs, after if stacked else after[0]

        if initial_state is None and self.stateful:
            # As tensors: on TensorFlow the loop would begin with the variables themselves.
            initial_state = tree.map_structure(lambda state: ops.copy(state.value), self.layer.states)
        # RNN itself knows no other loop; LSTM and GRU may take cuDNN's.
        loop = twin(self.layer, keras.layers.RNN, cell=_StandIn(cell, step, self.compute_dtype))
        outputs = keras.layers.RNN.call(loop, sequences, initial_state=initial_state, mask=mask)
        return self._in_own_type(outputs)

    def _in_own_type(self, outputs):
        return tree.map_structure(lambda y: ops.cast(y, self.compute_dtype), outputs)

    def reset_state(self):
        """Sets the states of a stateful layer to zero."""
        self.layer.reset_state()

    def compute_output_shape(self, sequences_shape, initial_state_shape=None):
        return self.layer.compute_output_shape(sequences_shape)

    @classmethod
    def from_config(cls, config):
        layer = config["layer"]
        # keras.layers.Bidirectional makes its backward layer so.
        if "go_backwards" in config:
            config = {**config}
            layer = {**layer, "config": {**layer["config"], "go_backwards": config.pop("go_backwards")}}
        return super().from_config({**config, "layer": layer})


class _StandIn:
    """What the loop takes for the cell: calls `step`, and is else the cell."""

    def __init__(self, cell, step, compute_dtype):
        self.cell, self.step, self.compute_dtype = cell, step, compute_dtype

    def __call__(self, inputs, states):
        return self.step(inputs, states)

    def __getattr__(self, name):
        return getattr(self.cell, name)


def cells_of(layer):
    return getattr(layer.cell, "cells", [layer.cell])


def split(x, sizes):
    return [x[..., end - size : end] for size, end in zip(sizes, itertools.accumulate(sizes), strict=True)]


def _same(x):
    return x


def step_of(cell, inputs, states, read=_same, update=_same, memory=_same):
    """Returns the states after a step of a Keras cell. Each function is applied to one thing within it.

    Args:
        cell: An LSTMCell, GRUCell or SimpleRNNCell.
        inputs: Of shape `(samples, features)`.
        states: A list of those before.
        read: To the output of the step before, where it enters a matrix product.
        update: To what the step adds to its memory (the cell state of an LSTM, the only state of the others): the
            candidate, before its gate.
        memory: To the memory after the step.
    """
    return STEPS[type(cell)](cell, inputs, states, read, update, memory)


def _lstm(cell, inputs, states, read, update, memory):
    h, c = states
    z = ops.matmul(inputs, cell.kernel) + ops.matmul(read(h), cell.recurrent_kernel)
    if cell.use_bias:
        z = z + cell.bias
    i, f, g, o = ops.split(z, 4, axis=-1)
    i, f, o = map(cell.recurrent_activation, (i, f, o))
    c = memory(f * c + i * update(cell.activation(g)))
    return [o * cell.activation(c), c]


def _gru(cell, inputs, states, read, update, memory):
    (h,) = states
    seen, gates = read(h), 2 * cell.units
    x, kernel = ops.matmul(inputs, cell.kernel), cell.recurrent_kernel
    # With `reset_after`, which has two biases, the reset gate is behind the matrix product, else before it.
    inner = ops.matmul(seen, kernel if cell.reset_after else kernel[:, :gates])
    if cell.use_bias:
        x = x + (cell.bias[0] if cell.reset_after else cell.bias)
        inner = inner + cell.bias[1] if cell.reset_after else inner
    z, r = ops.split(cell.recurrent_activation(x[:, :gates] + inner[:, :gates]), 2, axis=-1)
    reset = r * inner[:, gates:] if cell.reset_after else ops.matmul(r * seen, kernel[:, gates:])
    return [memory(z * h + (1 - z) * update(cell.activation(x[:, gates:] + reset)))]


def _simple_rnn(cell, inputs, states, read, update, memory):
    x = ops.matmul(inputs, cell.kernel) + ops.matmul(read(states[0]), cell.recurrent_kernel)
    if cell.use_bias:
        x = x + cell.bias
    return [memory(update(cell.activation(x)))]


STEPS = {LSTMCell: _lstm, GRUCell: _gru, SimpleRNNCell: _simple_rnn}
