"""What is built from each section of the options: data, network, rule, and whether they fit.

:func:`localgrad.experiment.build.build` puts them together.
"""
