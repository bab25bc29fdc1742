"""Local learning inside other people's trainers: one short file each, one extra each.

Each takes a learner made by :func:`localgrad.decouple` and calls its ``step`` where the trainer
would run forward, loss and backward; everything else stays the trainer's.
"""
