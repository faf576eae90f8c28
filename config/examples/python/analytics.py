"""How often is which tool used? A row for each call; a repeated event is the same row."""
import os
import sqlite3

from handler import handler

db = sqlite3.connect(os.path.join(os.environ["STATE"], "analytics.db"), isolation_level=None)
db.execute("create table if not exists calls (key text primary key, tool text, success)")


@handler
def count(event, asked):
    call = event["payload"]["tool_metadata"]
    db.execute("insert or ignore into calls values (?, ?, ?)", (asked["idempotency_key"], call["tool_name"], call.get("success")))
    return "{} so far: {}".format(call["tool_name"], *db.execute("select count(*) from calls where tool = ?", [call["tool_name"]]).fetchone())
