"""Look up an environment's packages in PyPI's list of known vulnerabilities; fail on those found, and on those alone.

python .ci/audit.py environment/bin/python

Where the list cannot be reached, a line says so: silence would look like a clean result.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

TIMEOUT = 300  # seconds


def main(python: str) -> None:
    """Print what is known of each package that `python` can import."""
    freeze = [python, "-m", "pip", "list", "--format=freeze", "--exclude=sam-bloodcell"]
    installed = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(installed.replace("+cpu", ""), "utf-8")
        audit = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner=off"]
        try:
            run = subprocess.run(
                [*audit, "--format=json", f"--requirement={requirements}"],
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            print(f"audit: no answer within {TIMEOUT} s; NOTHING was checked")
            return
    try:
        packages = json.loads(run.stdout)["dependencies"]
    except ValueError:
        reason = run.stderr.strip().splitlines() or ["it said nothing"]
        print(f"audit: the list of vulnerabilities could not be reached; NOTHING was checked ({reason[-1][:200]})")
        return

    checked = [package for package in packages if "skip_reason" not in package]
    if not checked:
        print(f"audit: the list of vulnerabilities could not be reached; NONE of {len(packages)} packages was checked")
        return
    print(f"audit: {len(checked)} of {len(packages)} packages checked")
    found = [(package, weakness) for package in checked for weakness in package["vulns"]]
    for package, weakness in found:
        fix = ", ".join(weakness["fix_versions"]) or "none yet"
        print(f"  {package['name']} {package['version']}: {weakness['id']}, fixed in {fix}")
    if found:
        raise SystemExit(f"{len(found)} known vulnerabilities.")


if __name__ == "__main__":
    main(sys.argv[1])
