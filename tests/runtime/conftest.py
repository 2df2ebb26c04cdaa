"""Makes the hand-made networks (tests/artifact/handmade.py) importable, whatever the working directory and the import path are."""

import sys
from pathlib import Path

HANDMADE = str(Path(__file__).resolve().parent.parent / "artifact")
if HANDMADE not in sys.path:
    sys.path.append(HANDMADE)
