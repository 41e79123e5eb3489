"""tflottery: find, transfer and export winning lottery tickets in Keras.

Each name loads on first use (PEP 562), so that the import is quick and pulls in no
framework that is not needed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tflottery.config import LotteryConfig as LotteryConfig
    from tflottery.engines import release as release
    from tflottery.engines.tfmot import LotterySchedule as LotterySchedule
    from tflottery.engines.tfmot import RewindToInit as RewindToInit
    from tflottery.search import find_ticket as find_ticket
    from tflottery.tickets import Ticket as Ticket
    from tflottery.tickets import load_ticket as load_ticket

__version__ = "0.1.0"

# The whole public API, and where each name lives.
_HOME = {
    "LotteryConfig": "config",
    "LotterySchedule": "engines.tfmot",
    "RewindToInit": "engines.tfmot",
    "Ticket": "tickets",
    "find_ticket": "search",
    "load_ticket": "tickets",
    "release": "engines",
}
__all__ = [
    "LotteryConfig",
    "LotterySchedule",
    "RewindToInit",
    "Ticket",
    "find_ticket",
    "load_ticket",
    "release",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tflottery' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tflottery.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
