"""Published tables as recipes: read, run as far as time allows, and put beside ours.

The way through: :mod:`table` (a file of rows) -> :mod:`scaling` (a row's run, and what is smaller
in it than published) -> :mod:`seconds` (how long it will take) -> :mod:`runs` (what fits, in
order) -> :mod:`outcome` (ours beside published) -> :mod:`order` and :mod:`store`.
"""
