"""Every dropout method as a Keras 3 layer, on TensorFlow, JAX and PyTorch."""

from keras_dropouts.comparison import compare
from keras_dropouts.curriculum_dropout import CurriculumDropout
from keras_dropouts.cutout import Cutout
from keras_dropouts.drop_block import DropBlock1D, DropBlock2D, DropBlock3D
from keras_dropouts.drop_connect import DropConnect
from keras_dropouts.drop_path import DropPath
from keras_dropouts.dropout import Dropout
from keras_dropouts.gaussian_dropout import GaussianDropout
from keras_dropouts.inference import always_on, monte_carlo
from keras_dropouts.linear_rates import linear_rates
from keras_dropouts.max_drop import MaxDrop
from keras_dropouts.max_pooling_dropout import MaxPoolingDropout1D, MaxPoolingDropout2D, MaxPoolingDropout3D
from keras_dropouts.rate_logger import RateLogger
from keras_dropouts.recurrent_dropout import RecurrentDropout
from keras_dropouts.rnn_drop import RNNDrop
from keras_dropouts.spatial_dropout import SpatialDropout1D, SpatialDropout2D, SpatialDropout3D
from keras_dropouts.standout import Standout
from keras_dropouts.stochastic_depth import StochasticDepth
from keras_dropouts.surgery import insert_after, replace
from keras_dropouts.timestep_dropout import TimestepDropout
from keras_dropouts.uniform_dropout import UniformDropout
from keras_dropouts.variational_rnn_dropout import VariationalRNNDropout
from keras_dropouts.zoneout import Zoneout

__all__ = [
    "CurriculumDropout",
    "Cutout",
    "DropBlock1D",
    "DropBlock2D",
    "DropBlock3D",
    "DropConnect",
    "DropPath",
    "Dropout",
    "GaussianDropout",
    "MaxDrop",
    "MaxPoolingDropout1D",
    "MaxPoolingDropout2D",
    "MaxPoolingDropout3D",
    "RNNDrop",
    "RateLogger",
    "RecurrentDropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "Standout",
    "StochasticDepth",
    "TimestepDropout",
    "UniformDropout",
    "VariationalRNNDropout",
    "Zoneout",
    "always_on",
    "compare",
    "insert_after",
    "linear_rates",
    "monte_carlo",
    "replace",
]
