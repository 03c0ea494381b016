"""Train a VAE on a folder's videos: what `twinvae train` does, with the default recipe.

    python -m examples.train FOLDER OUT

Stopped and started again with the same folders, it goes on where it was. See docs/training.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

from twinvae.bench.training import train

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    train(clips=Path(sys.argv[1]), out=Path(sys.argv[2]), recipe="small", hold_out=None, steps=None, decoder_of=None)
