"""Figures as PNG files, drawn by headless Chromium."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from report.chart import HEIGHT, WIDTH
from report.runs import ReportError

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SCALE = 2  # pixels per unit


def browser():
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if not found:
        raise ReportError(f"--png needs a browser to draw with; none of {', '.join(BROWSERS)} is installed")
    return found


def write_pictures(pictures, folder):
    """NAME.png for each (name, SVG), in light colours. Returns the paths."""
    program = browser()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    written = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, picture in pictures:
            page = Path(scratch) / "figure.html"
            page.write_text(
                f'<!doctype html><meta charset="utf-8"><style>{style}\nhtml {{ color-scheme: light; }}\n'
                f"body {{ margin: 0; background: #fff; }} svg {{ display: block; width: {WIDTH}px; "
                f"height: {HEIGHT}px; }}</style>{picture}",
                encoding="utf-8",
            )
            target = folder / f"{name}.png"
            done = subprocess.run(
                [program, "--headless", "--no-sandbox", "--disable-gpu", f"--force-device-scale-factor={SCALE}",
                 f"--window-size={WIDTH},{HEIGHT}", "--hide-scrollbars", f"--user-data-dir={scratch}/profile",
                 "--blink-settings=preferredColorScheme=1", f"--screenshot={target.resolve()}", page.as_uri()],
                capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode != 0 or not target.exists():
                raise ReportError(f"{target}: {program} drew nothing: {done.stderr.strip().splitlines()[-1:]}")
            written.append(target)
    return written
