import keras

from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.random.backend import xp
from keras_dropouts.random.multiply import times_normal


@keras.saving.register_keras_serializable(package="keras_dropouts")
class GaussianDropout(RandomLayer):
    """Multiplies every element by Gaussian noise of mean 1 and variance `rate / (1 - rate)` while training.

    The noise has the mean and variance of dropout's multiplier at the same rate, but drops nothing. It may be
    negative. Inference is the identity.

    Args:
        rate: The rate of the dropout that has this noise's variance: a number in `[0, 1)`, or a
            `keras.optimizers.schedules.LearningRateSchedule` of such numbers, whose step is the number of times the
            layer has been called in training. `layer.rate = r` takes effect at the next batch.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A tensor of a floating-point type, of any rank.
        training: Whether to add noise.

    Input shape:
        Any. The first axis counts samples.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described. At rate 1 the variance is infinite.

    Reference:
        Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15 (2014)
        1929-1958, section 10.

    The normal deviates are float32, in every dtype policy: the quantiles of the normal distribution in the middles of
    65536 equally likely intervals, the largest 4.3, scaled (by 1.00001) to a variance of 1.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import GaussianDropout
    >>> noise = np.array(GaussianDropout(0.2, seed=4)(np.ones((100, 1000), "float32"), training=True))
    >>> bool(abs(noise.mean() - 1) < 0.01), bool(abs(noise.std() - 0.5) < 0.01)
    (True, True)
    """

    # The nearest to 1 that a finite variance allows in the bits of a draw.
    max_rate = 1 - 2**-16

    def multiply(self, inputs, key, rate):
        return times_normal(inputs, key, xp.sqrt(rate / (1 - rate)))
