"""Makes the modules of this folder importable."""

import pathlib
import sys

# Tests are imported one by one, without packages: this is how they share modules.
sys.path.insert(0, str(pathlib.Path(__file__).parent))
