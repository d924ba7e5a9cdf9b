"""Generate the Python stubs of polyseme.v1, or check that the committed ones are current.

python proto/generate.py            write clients/python/polyseme/v1
python proto/generate.py --check    exit 1 if a stub differs or buf finds fault with a .proto
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

PROTO = Path(__file__).resolve().parent
CLIENT = PROTO.parent / "clients" / "python"
STUBS = CLIENT / "polyseme" / "v1"
# google/rpc/*.proto come with googleapis-common-protos.
INCLUDES = (f"-I{PROTO}", f"-I{sysconfig.get_path('purelib')}")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--check", action="store_true", help="compare instead of writing")
    check = arguments.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        fresh = generate(Path(folder))
        if check:
            return report(lint(Path(folder)) + differences(fresh, STUBS))
        shutil.rmtree(STUBS, ignore_errors=True)
        shutil.copytree(fresh, STUBS)
    print(f"{STUBS.relative_to(Path.cwd())}: {len(list(STUBS.iterdir()))} files")
    return 0


def generate(folder: Path) -> Path:
    """Write the stubs below `folder`; return the directory that holds them."""
    outputs = [
        f"--{kind}={folder}"
        for kind in ("python_out", "grpc_python_out", "mypy_out", "mypy_grpc_out")
    ]
    protoc(*outputs)
    return folder / "polyseme" / "v1"


def lint(folder: Path) -> list[str]:
    """What buf's STANDARD and COMMENTS rules say about the protos, a line a complaint."""
    image = folder / "image.binpb"
    protoc("--include_imports", "--include_source_info", f"--descriptor_set_out={image}")
    buf = Path(sysconfig.get_path("scripts")) / "buf"
    config = PROTO / "buf.yaml"
    said = subprocess.run(
        [buf, "lint", image, "--config", config], capture_output=True, text=True, check=False
    )
    return (said.stdout + said.stderr).splitlines()


def protoc(*arguments: str) -> None:
    protos = sorted(str(path) for path in (PROTO / "polyseme" / "v1").glob("*.proto"))
    # The mypy plug-ins are scripts beside this interpreter, which need not be on PATH.
    scripts = sysconfig.get_path("scripts")
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [sys.executable, "-m", "grpc_tools.protoc", *INCLUDES, *arguments, *protos]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)


def differences(fresh: Path, committed: Path) -> list[str]:
    compared = filecmp.dircmp(fresh, committed, ignore=["__pycache__"])
    wrong = compared.left_only + compared.right_only + compared.diff_files
    return [f"{name} is not what the protos give; run `make proto`" for name in sorted(wrong)]


def report(complaints: list[str]) -> int:
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if not complaints:
        print("protos: lint clean, stubs current")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
