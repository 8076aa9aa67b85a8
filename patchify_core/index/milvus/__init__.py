"""The same store interface on a Milvus server, or in a Milvus Lite file."""
