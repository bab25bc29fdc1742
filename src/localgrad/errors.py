"""The one exception for a user's mistake."""


class LocalgradError(ValueError):
    """What was asked for cannot be done; the message is one line and names the remedy."""
