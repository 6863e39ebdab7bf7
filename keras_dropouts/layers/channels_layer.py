import keras

from keras_dropouts.layers.arguments import checked_data_format


class ChannelsLayer(keras.layers.Layer):
    """Base of the layers of channels that take sequences, images and volumes alike.

    Args:
        data_format: `"channels_last"`, `"channels_first"`, or `None` for the default: `"channels_last"` for sequences,
            else `keras.config.image_data_format()`.
        **kwargs: As for the layer that it draws by.

    Raises:
        ValueError: Where an argument is not as described.
    """

    def __init__(self, data_format=None, **kwargs):
        super().__init__(**kwargs)
        self.data_format = None if data_format is None else checked_data_format(data_format)

    def build(self, input_shape):
        # Only now is it known whether the inputs are sequences.
        self.data_format = checked_data_format(self.data_format, len(input_shape) - 2)
        super().build(input_shape)

    def _channels_of(self, shape):
        """Returns which axis of inputs of this shape has the channels."""
        return 1 if self.data_format == "channels_first" else len(shape) - 1

    def get_config(self):
        return {**super().get_config(), "data_format": self.data_format}
