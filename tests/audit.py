"""Ask the public advisories for known holes in what the environment has installed.

    python tests/audit.py

Uses pip-audit where it is installed. Exit status 1: there is a hole, and it is named. 0: none is
known, or nobody could be asked, which is said: pip-audit itself then speaks of no known holes.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

TIMEOUT_S = 300


def verdict(dependencies: Sequence[dict[str, Any]]) -> tuple[str, int]:
    """What to print and the exit status, of the `dependencies` in pip-audit's JSON."""
    holes = [
        f"{one['name']} {one['version']}: {hole['id']}, mended in "
        f"{', '.join(hole['fix_versions']) or 'no version yet'}"
        for one in dependencies
        for hole in one.get("vulns", [])
    ]
    asked = sum("vulns" in one for one in dependencies)
    if holes:
        return "\n".join(holes), 1
    if asked == 0:
        return "audit skipped: the public advisories cannot be reached from here", 0
    return f"no known holes in {asked} packages; {len(dependencies) - asked} are not published", 0


def main() -> int:
    if importlib.util.find_spec("pip_audit") is None:
        print("audit skipped: pip-audit is not installed")
        return 0
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        dependencies = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        print("audit skipped: the public advisories cannot be reached from here")
        return 0
    said, status = verdict(dependencies)
    print(said)
    return status


if __name__ == "__main__":
    sys.exit(main())
