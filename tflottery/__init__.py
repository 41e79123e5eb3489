"""tflottery: find, transfer and export winning lottery tickets in Keras.

Names load on first use (PEP 562), so the import is quick and loads no framework that
is not needed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tflottery.core.config import LotteryConfig as LotteryConfig
    from tflottery.engines import hold as hold
    from tflottery.engines import release as release
    from tflottery.engines.tfmot.schedule import LotterySchedule as LotterySchedule
    from tflottery.search.cost import estimate_cost as estimate_cost
    from tflottery.search.loop import find_ticket as find_ticket
    from tflottery.search.one_fit import RewindToInit as RewindToInit
    from tflottery.search.pools import pool as pool
    from tflottery.tflite import ExportReport as ExportReport
    from tflottery.tflite import benchmark_tflite as benchmark_tflite
    from tflottery.tflite import evaluate_tflite as evaluate_tflite
    from tflottery.tflite import export_tflite as export_tflite
    from tflottery.ticket import Ticket as Ticket
    from tflottery.ticket import load_ticket as load_ticket
    from tflottery.transfer.student import transfer_ticket as transfer_ticket

__version__ = "0.1.0"

# The whole public API, and where each name lives.
_HOME = {
    "ExportReport": "tflite",
    "LotteryConfig": "core.config",
    "LotterySchedule": "engines.tfmot.schedule",
    "RewindToInit": "search.one_fit",
    "Ticket": "ticket",
    "benchmark_tflite": "tflite",
    "estimate_cost": "search.cost",
    "evaluate_tflite": "tflite",
    "export_tflite": "tflite",
    "find_ticket": "search.loop",
    "hold": "engines",
    "load_ticket": "ticket",
    "pool": "search.pools",
    "release": "engines",
    "transfer_ticket": "transfer.student",
}
__all__ = [
    "ExportReport",
    "LotteryConfig",
    "LotterySchedule",
    "RewindToInit",
    "Ticket",
    "benchmark_tflite",
    "estimate_cost",
    "evaluate_tflite",
    "export_tflite",
    "find_ticket",
    "hold",
    "load_ticket",
    "pool",
    "release",
    "transfer_ticket",
]


def __getattr__(name: str) -> Any:
    if name == "controls":
        return importlib.import_module("tflottery.transfer.controls")
    if name not in _HOME:
        raise AttributeError(f"module 'tflottery' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"tflottery.{_HOME[name]}"), name)
    globals()[name] = value  # So that this function is asked once a name.
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
