"""One line of CSV for each session: how long, how many turns, files and commits."""
import csv
import os
import sys

from handler import handler

path = os.path.join(os.environ["STATE"], "productivity.csv")


@handler
def record(event, asked):
    end = event["payload"]
    row = [asked["idempotency_key"], end.get("duration_seconds"), end.get("total_turns")]
    row += [len(end.get("files_modified") or []), len(end.get("git_commits") or [])]
    with open(path, "a+", newline="") as file:
        file.seek(0)
        if all(known[:1] != row[:1] for known in csv.reader(file)):  # else it is a repetition
            csv.writer(file).writerow(row)
    print("recorded", *row, file=sys.stderr)
    return f"{row[3]} files, {row[4]} commits"
