"""python -m foveate, as torchrun starts it."""

from foveate.cli import main

main()
