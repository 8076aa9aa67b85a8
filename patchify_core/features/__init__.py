"""How patches are described: one pass per patch (`crop`) or one per picture (`pooled`), and kept feature maps."""
