import keras


class Wrapper(keras.layers.Wrapper):
    """Keras's wrapper, with a config that is the same again after a file, and makes the class it is asked of."""

    def get_config(self):
        config = super().get_config()
        # Building the wrapper builds the layer; Keras's note of its shape does not survive a file unchanged.
        config["layer"].pop("build_config", None)
        return config

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config["layer"])
        # Past keras.layers.Wrapper, which calls no other class.
        return super(keras.layers.Wrapper, cls).from_config({**config, "layer": layer})


class LayerWrapper(Wrapper):
    """What the wrappers share that do the work of the layer they wrap: its types, its masks and losses."""

    def __init__(self, layer, **kwargs):
        # A wrapper computes in the type of what it wraps, and is not quantized itself: "int8_from_float32" is float32.
        policy = layer.dtype_policy
        if policy.quantization_mode is not None:
            policy = policy.name.split("_from_")[-1]
        super().__init__(layer, **{"dtype": policy, **kwargs})
        self.supports_masking = layer.supports_masking
        self.input_spec = layer.input_spec
        # Keras applies it to the output of a call, and the wrapped layer's own is not called.
        self.activity_regularizer = layer.activity_regularizer

    def build(self, input_shape):
        super().build(input_shape)
        # The layer knows more of its inputs now.
        self.input_spec = self.layer.input_spec or self.input_spec

    def weights_carried_over(self):
        """What surgery calls once the wrapped layer has the weights of the one whose place it takes."""

    def compute_mask(self, inputs, previous_mask):
        return self.layer.compute_mask(inputs, previous_mask)
