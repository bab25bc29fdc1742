"""The options of the command line, a module for each section of the tree.

An option is a field of its section, with its kind, default and help text; :mod:`.kinds` has the
kinds, :mod:`.together` what two options cannot both be. Sections are put together in
:mod:`localgrad.experiment.config`, and read by

- ``method``, ``network``, ``data``: :mod:`localgrad.experiment.building`, a module for each;
- ``optimizer``, ``schedule``: :mod:`localgrad.experiment.schedule`;
- ``parallel``: :mod:`localgrad.experiment.part_update`;
- ``checkpoint``, ``log``: :mod:`localgrad.experiment.kept_checkpoints` and
  :mod:`localgrad.experiment.log`;
- ``search``: :mod:`localgrad.search`.
"""
