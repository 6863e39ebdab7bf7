import keras

from keras_dropouts.layer_wrapper import LayerWrapper


class KernelWrapper(LayerWrapper):
    """What the wrappers that look into a layer share: its kernel, its bias, and the linear part of what it computes.

    The wrapped layer computes `activation(inputs * kernel + bias)`, where `*` is linear in both: Dense, EinsumDense,
    the convolutions and their transposes. Its variables stay its own.
    """

    def __init__(self, layer, **kwargs):
        if isinstance(layer, KernelWrapper):
            raise ValueError(
                f"`layer` is wrapped in {layer.__class__.__name__} already, which drops by its weights. Wrap the layer "
                f"inside, `layer.layer`, instead. Received: layer={layer!r}"
            )
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(f"`layer` must be a Keras layer that has a kernel. Received: layer={layer!r}")
        super().__init__(layer, **kwargs)
        if layer.built:
            self._check_kernel()

    def _check_kernel(self):
        if not isinstance(getattr(self.layer, "kernel", None), keras.Variable):
            raise ValueError(
                f"`layer` must have a kernel that it applies to its input, as Dense, EinsumDense and the convolutions "
                f"have, neither quantized nor with LoRA; wrap such a layer. Received: layer={self.layer!r}"
            )

    def build(self, input_shape):
        super().build(input_shape)
        self._check_kernel()

    def _weights(self):
        """Returns the wrapped layer's kernel and bias (or `None`) as tensors."""
        bias = getattr(self.layer, "bias", None)
        return self.layer.kernel.value, None if bias is None else bias.value

    def _activation(self, inputs):
        activation = getattr(self.layer, "activation", None)
        return inputs if activation is None else activation(inputs)

    def _apply(self, inputs, kernel, bias):
        """Returns `inputs * kernel + bias`, in the type of the inputs; without the activation.

        Args:
            inputs: As for the wrapped layer.
            kernel, bias: Tensors that take the places of its own; `bias` is `None` where it has none.
        """
        # A twin that shares the variables: setting the activation aside on the layer itself would show.
        twin = object.__new__(type(self.layer))
        vars(twin).update(vars(self.layer), activation=keras.activations.linear, activity_regularizer=None)
        twin.dtype_policy = keras.backend.standardize_dtype(inputs.dtype)
        # The last value given for a variable holds.
        values = [(v, v.value) for v in self.layer.variables] + [(self.layer.kernel, kernel)]
        if bias is not None:
            values.append((self.layer.bias, bias))
        with keras.StatelessScope(values):
            return twin(inputs)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)
