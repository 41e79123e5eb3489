"""tf_keras, through TensorFlow Model Optimization: the engine, and tfmot extended."""

from tflottery.engines.tfmot.engine import TfmotEngine
from tflottery.engines.tfmot.held import hold, release
from tflottery.engines.tfmot.rewind import RewindToInit
from tflottery.engines.tfmot.schedule import LotterySchedule

__all__ = ["LotterySchedule", "RewindToInit", "TfmotEngine", "hold", "release"]
