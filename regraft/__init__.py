"""The ground floor: what serving, training and monitoring agree on."""

__version__ = "0.1.0"
