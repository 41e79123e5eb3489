"""`python -m tflottery` is the command `tflottery`."""

import sys

from tflottery.cli import main

sys.exit(main())
