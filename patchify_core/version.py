"""The version, where everything below the package may ask for it."""

__version__ = "0.1.0"
