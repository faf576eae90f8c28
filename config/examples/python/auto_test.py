"""Runs the tests of a directory, once for a burst of writes in it. Tests that fail are a result, not a failure of the handler."""
import os
import subprocess
import sys

from handler import Verdict, handler


@handler
def run(_, asked):
    directory = os.path.realpath(asked["events"][-1]["payload"]["working_directory"])
    root = os.path.realpath(os.environ["CODE"])
    if os.path.commonpath([root, directory]) != root:
        raise Verdict("reject", f"{directory} is not below {root}")  # an event must not choose where code is run
    tests = subprocess.run([sys.executable, "-B", "-m", "unittest", "-q"], cwd=directory, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=240)
    result = "passed" if tests.returncode == 0 else "failed"
    return {"note": f"{result} after {len(asked['events'])} writes", "emit": [{"key": f"tests.{result}", "payload": {"working_directory": directory}}]}
