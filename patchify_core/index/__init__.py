"""Descriptors on disk and their search: what was made of which pictures, and the nearest patches of a query."""
