// POST /events and /events/batch: check, append to the stream, answer 202.
//   PORT, REDIS_URL, STREAM, API_KEY

import { createHash, randomUUID, timingSafeEqual } from 'node:crypto';

import Fastify from 'fastify';
import { Redis } from 'ioredis';

import * as schema from './schema.js';

const { PORT, REDIS_URL, STREAM, API_KEY } = process.env;
const digest = (text) => createHash('sha256').update(text).digest();
const key = digest(API_KEY);

// Commands of requests that come in the same turn of the loop share one round trip.
const redis = new Redis(REDIS_URL, { enableAutoPipelining: true });

const app = Fastify({
  bodyLimit: 8 * 1024 * 1024,
  // As strict as evp: nothing is converted, and what the schema does not know is refused.
  ajv: { customOptions: { coerceTypes: false, removeAdditional: false } },
});

app.addHook('onRequest', async (request, reply) => {
  const given = request.headers['x-api-key'];
  if (typeof given !== 'string' || !timingSafeEqual(digest(given), key)) {
    return reply.code(401).send({ error: 'unknown x-api-key' });
  }
});

// The events of one request are one entry.
async function append(events) {
  const receivedAt = new Date().toISOString();
  for (const event of events) {
    event.id ??= randomUUID();
    event.source ??= 'bench';
    event.time ??= receivedAt;
  }
  await redis.xadd(STREAM, '*', 'events', JSON.stringify(events), 'received_at', receivedAt);
}

app.post('/events', { schema: { body: schema.event } }, async (request, reply) => {
  await append([request.body]);
  return reply.code(202).send({ event_id: request.body.id });
});

app.post('/events/batch', { schema: { body: schema.events } }, async (request, reply) => {
  await append(request.body);
  return reply.code(202).send({ accepted: request.body.length });
});

await app.listen({ host: '127.0.0.1', port: Number(PORT) });

process.once('SIGTERM', async () => {
  await app.close();
  await redis.quit();
});
