"""The `polyseme` command; the terminal's part comes with the extra `cli`."""

import importlib.util
import os
import sys


def main() -> None:
    """Run the command, or say in one sentence what it lacks."""
    missing = [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"polyseme: the command needs {' and '.join(missing)}: "
            "pip install './clients/python[cli]' in the repository"
        )
    # gRPC's own log lines say what the command says better; whoever wants them sets the variable.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from polyseme.cli.app import run  # only now: it imports what was just looked for

    sys.exit(run())


if __name__ == "__main__":
    main()
