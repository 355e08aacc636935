"""`python -m darwinc` is the command `darwinc`."""

from __future__ import annotations

from darwinc.cli import main

if __name__ == "__main__":
    main()
