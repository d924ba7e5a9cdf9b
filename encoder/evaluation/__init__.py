"""How good a model is: scorers, benchmarks, and the table that goes on its card.

Read `suite` first: it runs the tasks. The scorers know neither models nor files, and torch is
imported by `torch_model`, `masked`, `translation` and `alignment` alone.
"""
