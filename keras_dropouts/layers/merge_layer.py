import keras

from keras_dropouts.layers.arguments import checked_inputs


class MergeLayer(keras.layers.Layer):
    """Base of the layers that make one tensor of several, as `keras.layers.Add` does: shapes and masks are those of it.

    A subclass says how many tensors it takes: `branches`, or `None` for two or more.
    """

    branches: int | None = None

    def _checked(self, inputs):
        """Returns the tensors as a list, after a look at their number, types and shapes."""
        self._check_number(inputs, inputs if isinstance(inputs, (list, tuple)) else [])
        tensors = [checked_inputs(self, x, "branch") for x in inputs]
        self._check_shapes([x.shape for x in tensors])
        return tensors

    def _check_number(self, inputs, tensors):
        count = len(tensors)
        if count < 2 or count != (self.branches or count):
            raise ValueError(
                f"`inputs` must be a list or tuple of {self._number()} tensors. Received: inputs={inputs!r}"
            )

    def _check_shapes(self, shapes):
        first = shapes[0]
        for shape in shapes[1:]:
            sizes = zip(first, shape, strict=False)
            if len(shape) != len(first) or any(m != n and None not in (m, n) for m, n in sizes):
                received = " and ".join(str(tuple(shape)) for shape in shapes)
                raise ValueError(
                    f"`inputs` must be {self._number()} tensors of the same shape. "
                    f"Received: inputs of shapes {received}"
                )

    def _number(self):
        return {None: "two or more", 2: "two"}[self.branches]

    def compute_output_shape(self, input_shape):
        self._check_number(input_shape, [shape for shape in input_shape if isinstance(shape, (list, tuple))])
        self._check_shapes(input_shape)
        return keras.layers.Add(name="add").compute_output_shape(input_shape)

    def compute_mask(self, inputs, previous_mask):
        # In each call, where torch.compile could not make a layer.
        return keras.layers.Add.compute_mask(self, inputs, previous_mask)
