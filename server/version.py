"""Which version this is, and of what it is built."""

from importlib import metadata

API_VERSION = "v1"
BUILT_ON = ("onnxruntime", "onnxruntime-gpu", "faiss-cpu", "tokenizers", "grpcio", "numpy")


def server_version() -> str:
    return metadata.version("polyseme-server")


def versions() -> dict[str, str]:
    """Versions of what the server is built on, as far as it is installed."""
    found = {}
    for name in BUILT_ON:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # one of the two onnxruntimes
            continue
    return found
