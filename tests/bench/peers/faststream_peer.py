"""Drains a queue with FastStream: manual acknowledgements, a pydantic model, a handler that does nothing."""

import asyncio
import os
import sys
import time
from typing import Any

from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitMessage, RabbitQueue
from pydantic import BaseModel

EVENTS = int(os.environ["BENCH_EVENTS"])
LATENCY = os.environ["BENCH_MODE"] == "latency"


class Envelope(BaseModel):
    sent_ns: int
    event_id: str
    event_type: str
    timestamp: str
    version: str
    source: dict[str, Any]
    correlation_ids: list[str]
    payload: dict[str, Any]


broker = RabbitBroker(os.environ["BENCH_URL"], default_channel=Channel(prefetch_count=500), logger=None)
app = FastStream(broker, logger=None)
seen = 0
latencies: list[int] = []


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@broker.subscriber(RabbitQueue("services.router.drain", declare=False), ack_policy=AckPolicy.MANUAL)
async def handle(event: Envelope, message: RabbitMessage) -> None:
    global seen
    if LATENCY:
        latencies.append((time.time_ns() - event.sent_ns) // 1000)
    await message.ack()
    seen += 1
    if seen == 1:
        say("begin")
    if seen == EVENTS:
        if LATENCY:
            latencies.sort()
            last = len(latencies) - 1
            say(f"latency {latencies[last * 500 // 1000]} {latencies[last * 990 // 1000]}")
        say("end")


asyncio.run(app.run())
