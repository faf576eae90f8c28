// Drains a queue with amqplib: parses each event and acknowledges it.
'use strict';

const amqp = require('amqplib');

const events = Number(process.env.BENCH_EVENTS);
const latency = process.env.BENCH_MODE === 'latency';
const latencies = [];
let seen = 0;

const say = (line) => process.stdout.write(`${line}\n`);

async function main() {
  const connection = await amqp.connect(process.env.BENCH_URL);
  const channel = await connection.createChannel();
  await channel.prefetch(500);
  await channel.consume('services.router.drain', (message) => {
    const event = JSON.parse(message.content.toString());
    if (latency) latencies.push((performance.timeOrigin + performance.now()) * 1000 - event.sent_ns / 1000);
    channel.ack(message);
    seen += 1;
    if (seen === 1) say('begin');
    if (seen === events) {
      if (latency) {
        latencies.sort((a, b) => a - b);
        const at = (share) => Math.round(latencies[Math.floor(((latencies.length - 1) * share) / 1000)]);
        say(`latency ${at(500)} ${at(990)}`);
      }
      say('end');
    }
  });
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
