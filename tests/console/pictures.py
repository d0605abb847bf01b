"""Makes the pictures of docs/console.md small: `python -m tests.console.pictures FOLDER`.

The console has few colours, so a palette loses nothing that is seen.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

COLOURS = 64
MOST_BYTES = 150_000


def main(folder: Path) -> int:
    """Returns 1 when a picture stays larger than `MOST_BYTES`."""
    large = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as picture:
            small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        small.save(path, optimize=True)
        if path.stat().st_size > MOST_BYTES:
            large.append(path.name)
    for name in large:
        sys.stderr.write(f"{name} has more than {MOST_BYTES} bytes: show less on it\n")
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
