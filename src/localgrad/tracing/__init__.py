"""Cuts of any module.

The way of a model through this room: :mod:`tracer` follows its forward on stand-ins and writes
down a :mod:`graph`; :mod:`borders` finds where one tensor alone is alive; :mod:`granularity`
chooses units among those cuts; :mod:`slicing` makes a :mod:`slices.Slice` of each, which
:mod:`units` runs and checks against the model; :mod:`renewal` makes fresh copies for AugLocal.
"""
