"""What did each session cost? Above the budget an event of our own says so."""
import os
import sqlite3

from handler import handler

db = sqlite3.connect(os.path.join(os.environ["STATE"], "cost.db"), isolation_level=None)
db.execute("create table if not exists sessions (session text primary key, tokens integer, usd real)")


@handler
def account(event, asked):
    end = event["payload"]
    session, tokens, usd = end["session_id"], end.get("total_tokens") or 0, end.get("total_cost_usd") or 0.0
    db.execute("insert or replace into sessions values (?, ?, ?)", (session, tokens, usd))
    over = usd > float(os.environ["BUDGET_USD"])
    alarm = {"key": "session.budget.exceeded", "payload": {"session_id": session, "usd": usd}}
    return {"note": f"{tokens} tokens, {usd:.2f} USD", "emit": [alarm] if over else []}
