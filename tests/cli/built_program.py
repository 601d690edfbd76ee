"""Where the program under test is."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def program():
    """The built program: HSATTN_PROGRAM, or what `./run build` makes."""
    return Path(os.environ.get("HSATTN_PROGRAM", ROOT / "build" / "full" / "cli" / "hsattn"))
