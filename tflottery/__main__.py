"""`python -m tflottery` is the command `tflottery`."""

import sys

from tflottery.cli.main import main

sys.exit(main())
