import keras
from keras import layers, ops

from keras_dropouts.keras_internals import kernel_attribute, twin
from keras_dropouts.layers.layer_wrapper import LayerWrapper

TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
LAYERS = (
    layers.Dense,
    layers.EinsumDense,
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    *TRANSPOSED,
    *DEPTHWISE,
)


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
        if not any(isinstance(layer, known) and _computes(type(layer)) == _computes(known) for known in LAYERS):
            raise ValueError(
                f"`layer` must be a keras.layers.Dense, EinsumDense, a convolution (transposed or depthwise, but not "
                f"separable), or a subclass of one that computes the same: of another layer it is not known what it "
                f"does with its kernel. Received: layer={layer!r}"
            )
        super().__init__(layer, **kwargs)

    def _weights(self):
        """Returns the wrapped layer's kernel and bias (or `None`) as tensors."""
        bias = None if self.layer.bias is None else self.layer.bias.value
        mode = self.layer.quantization_mode
        if mode is None:
            kernel = self.layer.kernel
            # With LoRA it is the merged kernel, a tensor.
            return kernel.value if isinstance(kernel, keras.Variable) else kernel, bias
        if not isinstance(self.layer, layers.Dense) or mode not in ("int8", "int4", "float8"):
            raise ValueError(
                f"A quantized `layer` must be a keras.layers.Dense in mode 'int8', 'int4' or 'float8'. The `filters` "
                f"of `model.quantize` leave others as they are. "
                f"Received: layer={self.layer!r} with quantization_mode={mode!r}"
            )
        # Each mode stores its numbers in another way; in all of them the kernel is the answer to unit vectors.
        return self._linear(bias=None)(ops.eye(self.layer.input_spec.axes[-1], dtype=self.compute_dtype)), bias

    def _summed_axes(self, kernel):
        """Returns the axes of the kernel, a tensor, along which the weights of one unit or channel are."""
        rank = len(kernel.shape)
        if isinstance(self.layer, layers.EinsumDense):
            read, outputs = self.layer.equation.split("->")
            return [axis for axis, label in enumerate(read.split(",")[1]) if label not in outputs]
        if isinstance(self.layer, DEPTHWISE):
            return list(range(rank - 2))
        units = rank - 2 if isinstance(self.layer, TRANSPOSED) else rank - 1
        return [axis for axis in range(rank) if axis != units]

    def _activation(self, inputs):
        return inputs if self.layer.activation is None else self.layer.activation(inputs)

    def _product(self, inputs, kernel, bias):
        """Returns `inputs * kernel + bias`, in the type of the inputs; without the activation.

        Args:
            inputs: As for the wrapped layer.
            kernel, bias: Tensors that take the places of its own; `None` for `bias` leaves it out.
        """
        kernel, bias = (None if x is None else ops.cast(x, inputs.dtype) for x in (kernel, bias))
        attributes = {kernel_attribute(self.layer): kernel, "bias": bias, "use_bias": bias is not None}
        layer = self._linear(**attributes, lora_enabled=False)
        layer.dtype_policy = keras.backend.standardize_dtype(inputs.dtype)
        return layer(inputs)

    def _linear(self, **attributes):
        """A layer that shares all but these and the activation; to set that aside on the layer itself would show."""
        return twin(self.layer, activation=keras.activations.linear, activity_regularizer=None, **attributes)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)


def _computes(layer):
    """What makes the output of a layer of such a class."""
    return [getattr(layer, name, None) for name in ("call", "kernel", "convolution_op")]
