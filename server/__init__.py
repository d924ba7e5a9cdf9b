"""Knows that there are many callers: gRPC, batching, admission, errors, metrics."""
