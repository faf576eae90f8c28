"""Where is the worktree of a session's branch? Started for each event, which is one line on the input; the exit code is the answer."""
import json
import subprocess
import sys

start = json.load(sys.stdin)["payload"]
git = ["git", "-C", start["working_directory"], "worktree", "list", "--porcelain"]
listed = subprocess.run(git, capture_output=True, text=True)
if listed.returncode != 0:
    sys.exit("git: " + listed.stderr.strip())  # exit code 1: try again
for block in listed.stdout.split("\n\n"):
    if f"branch refs/heads/{start['git_branch']}" in block.splitlines():
        print(block.splitlines()[0].removeprefix("worktree "))
        sys.exit(0)
print(f"no worktree has the branch {start['git_branch']}")
sys.exit(3)  # `exit_codes.skip` in the route
