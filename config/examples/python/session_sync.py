"""Keeps a session's record in Flume. While Flume is down the route waits, and no event is used up."""
import json
import os
import urllib.error
import urllib.parse
import urllib.request

from handler import Verdict, handler


@handler
def sync(event, asked):
    session = event["payload"]["session_id"]
    record = json.dumps({"last_event": asked["key"], "payload": event["payload"]}).encode()
    url = f"{os.environ['FLUME_URL']}/sessions/{urllib.parse.quote(session, safe='')}"
    headers = {"content-type": "application/json", "idempotency-key": asked["idempotency_key"]}
    try:
        urllib.request.urlopen(urllib.request.Request(url, record, headers, method="PUT"), timeout=15).close()
    except urllib.error.HTTPError as error:
        raise Verdict("reject" if error.code in (400, 404, 422) else "retry", f"Flume answered {error.code}")
    except OSError as error:
        raise Verdict("pause", f"Flume cannot be reached: {error}", delay_ms=5_000)
