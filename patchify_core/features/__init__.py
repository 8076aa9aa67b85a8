"""Patch descriptors: one forward pass per patch (`crop`) or one per picture (`pooled`), and stored feature maps."""
