"""Every dropout method as a Keras 3 layer, on TensorFlow, JAX and PyTorch."""

from keras_dropouts import random
from keras_dropouts.auditing.audit import audit
from keras_dropouts.auditing.report import Audit, AuditedLayer, Finding
from keras_dropouts.callbacks import RateLogger
from keras_dropouts.comparison.compare import compare
from keras_dropouts.compression import Compression, compress
from keras_dropouts.inference.always_on import always_on
from keras_dropouts.inference.monte_carlo import MonteCarloPrediction, monte_carlo
from keras_dropouts.inference.score import ClassificationScore, RegressionScore
from keras_dropouts.layers.alpha_dropout import AlphaDropout
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.layers.concrete_dropout import ConcreteDropout
from keras_dropouts.layers.condition_dropout import ConditionDropout
from keras_dropouts.layers.cutout import Cutout
from keras_dropouts.layers.drop_block import DropBlock1D, DropBlock2D, DropBlock3D
from keras_dropouts.layers.drop_connect import DropConnect
from keras_dropouts.layers.drop_head import DropHead
from keras_dropouts.layers.drop_key import DropKey
from keras_dropouts.layers.drop_path import DropPath
from keras_dropouts.layers.dropout import Dropout
from keras_dropouts.layers.embedding_dropout import EmbeddingDropout
from keras_dropouts.layers.embedding_noise import EmbeddingNoise
from keras_dropouts.layers.fast_dropout import FastDropout
from keras_dropouts.layers.fractal_join import FractalJoin
from keras_dropouts.layers.gaussian_dropout import GaussianDropout
from keras_dropouts.layers.layer_drop import LayerDrop
from keras_dropouts.layers.masking import FrequencyMasking, TimeMasking
from keras_dropouts.layers.masksembles import Masksembles
from keras_dropouts.layers.max_drop import MaxDrop
from keras_dropouts.layers.max_pooling_dropout import MaxPoolingDropout1D, MaxPoolingDropout2D, MaxPoolingDropout3D
from keras_dropouts.layers.mixout import Mixout
from keras_dropouts.layers.modality_dropout import ModalityDropout
from keras_dropouts.layers.multi_head_attention import MultiHeadAttention
from keras_dropouts.layers.patch_dropout import PatchDropout
from keras_dropouts.layers.recurrent_dropout import RecurrentDropout
from keras_dropouts.layers.rnn_drop import RNNDrop
from keras_dropouts.layers.shake_drop import ShakeDrop
from keras_dropouts.layers.shake_shake import ShakeShake
from keras_dropouts.layers.skip_path import SkipPath
from keras_dropouts.layers.sparse_variational_dropout import SparseVariationalDropout
from keras_dropouts.layers.spatial_alpha_dropout import (
    SpatialAlphaDropout1D,
    SpatialAlphaDropout2D,
    SpatialAlphaDropout3D,
)
from keras_dropouts.layers.spatial_dropout import SpatialDropout1D, SpatialDropout2D, SpatialDropout3D
from keras_dropouts.layers.standout import Standout
from keras_dropouts.layers.stochastic_depth import StochasticDepth
from keras_dropouts.layers.stochastic_pooling import StochasticPooling1D, StochasticPooling2D, StochasticPooling3D
from keras_dropouts.layers.swap_noise import SwapNoise
from keras_dropouts.layers.targeted_dropout import TargetedDropout
from keras_dropouts.layers.timestep_dropout import TimestepDropout
from keras_dropouts.layers.uniform_dropout import UniformDropout
from keras_dropouts.layers.variational_dropout import VariationalDropout
from keras_dropouts.layers.variational_rnn_dropout import VariationalRNNDropout
from keras_dropouts.layers.weight_drop import WeightDrop
from keras_dropouts.layers.weighted_channel_dropout import WeightedChannelDropout
from keras_dropouts.layers.zoneout import Zoneout
from keras_dropouts.schedules import CurriculumDropout, linear_rates
from keras_dropouts.surgery import insert_after, replace

__version__ = "0.1.0"

__all__ = [
    "AlphaDropout",
    "Audit",
    "AuditedLayer",
    "ClassificationScore",
    "Compression",
    "ConcreteDropout",
    "ConditionDropout",
    "CurriculumDropout",
    "Cutout",
    "DropBlock1D",
    "DropBlock2D",
    "DropBlock3D",
    "DropConnect",
    "DropHead",
    "DropKey",
    "DropPath",
    "Dropout",
    "EmbeddingDropout",
    "EmbeddingNoise",
    "FastDropout",
    "Finding",
    "FractalJoin",
    "FrequencyMasking",
    "GaussianDropout",
    "LayerDrop",
    "Masksembles",
    "MaxDrop",
    "MaxPoolingDropout1D",
    "MaxPoolingDropout2D",
    "MaxPoolingDropout3D",
    "Mixout",
    "ModalityDropout",
    "MonteCarloPrediction",
    "MultiHeadAttention",
    "PatchDropout",
    "RNNDrop",
    "RandomLayer",
    "RateLogger",
    "RecurrentDropout",
    "RegressionScore",
    "ShakeDrop",
    "ShakeShake",
    "SkipPath",
    "SparseVariationalDropout",
    "SpatialAlphaDropout1D",
    "SpatialAlphaDropout2D",
    "SpatialAlphaDropout3D",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "Standout",
    "StochasticDepth",
    "StochasticPooling1D",
    "StochasticPooling2D",
    "StochasticPooling3D",
    "SwapNoise",
    "TargetedDropout",
    "TimeMasking",
    "TimestepDropout",
    "UniformDropout",
    "VariationalDropout",
    "VariationalRNNDropout",
    "WeightDrop",
    "WeightedChannelDropout",
    "Zoneout",
    "__version__",
    "always_on",
    "audit",
    "compare",
    "compress",
    "insert_after",
    "linear_rates",
    "monte_carlo",
    "random",
    "replace",
]
