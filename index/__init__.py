"""The memory side: documents in SQLite, their vectors in FAISS, and searches over both."""
