"""arrag: evaluation and reproduction harness for AR-RAG (arXiv 2506.06962)."""

__version__ = "0.1.0"
