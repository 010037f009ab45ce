"""python -m foveate, as torchrun starts it."""

from foveate.cli.main import main

main()
