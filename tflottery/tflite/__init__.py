"""TFLite: the smallest file that still answers right, and what it does on the edge."""

from tflottery.tflite.export import export_tflite
from tflottery.tflite.report import ExportReport
from tflottery.tflite.run.benchmark import BenchmarkReport, benchmark_tflite
from tflottery.tflite.run.evaluate import evaluate_tflite
from tflottery.tflite.run.verify import WrongFileError

__all__ = [
    "BenchmarkReport",
    "ExportReport",
    "WrongFileError",
    "benchmark_tflite",
    "evaluate_tflite",
    "export_tflite",
]
