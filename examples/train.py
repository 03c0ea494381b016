"""Train a VAE on a folder's videos: what `twinvae train` does, which takes more options.

    python -m examples.train FOLDER OUT [--steps N ...]

Stopped and started again with the same folders, it goes on where it was. See docs/training.md.
"""

from __future__ import annotations

import sys

from twinvae.bench.cli import main

if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    folder, out, *options = sys.argv[1:]
    sys.exit(main(["train", "--clips", folder, "--out", out, *options]))
