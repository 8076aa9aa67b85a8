"""The same store on a Milvus server or in a Milvus Lite file."""
