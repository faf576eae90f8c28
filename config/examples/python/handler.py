"""All that a handler in Python needs: `@handler` on a function, which then runs for each event until the router closes the input."""
import json
import sys
import traceback


class Verdict(Exception):
    """Raised by a handler that is not done: `Verdict("skipped", "not mine")`, `Verdict("pause", "it is down", delay_ms=5000)`."""

    def __init__(self, outcome, reason, **more):
        super().__init__(reason)
        self.said = {"outcome": outcome, "reason": reason, **more}


def handler(function):
    """`function(event, asked)` returns nothing, a note, or members of the verdict. `asked` is the whole line: see docs/without-rust.md."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what is printed is for people
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            said = function(asked.get("event"), asked) or {}
            verdict = {"outcome": "done", **({"note": said} if isinstance(said, str) else said)}
        except Verdict as other:
            verdict = other.said
        except Exception as error:  # the router tries again, and keeps the event as a dead letter at last
            traceback.print_exc()
            verdict = {"outcome": "retry", "reason": f"{type(error).__name__}: {error}"}
        print(json.dumps({"id": asked["id"], **verdict}), file=answers, flush=True)
