"""Bytes and names of pictures that others made: what they are, what they may cost, and what they look like."""
