"""So that `python -m encoder.training.lent` works where polyseme-model is not installed."""

from encoder.training.lent.command import main

main()
