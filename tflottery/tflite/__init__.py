"""Export to TFLite, evaluation and timing of the files."""

from tflottery.tflite.export import export_tflite
from tflottery.tflite.report import ExportReport

__all__ = ["ExportReport", "export_tflite"]
