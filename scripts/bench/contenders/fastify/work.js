// Read entries of the group, insert their events into the store, ack.
//   REDIS_URL, MONGO_URL, MONGO_DB, STREAM, GROUP

import { Redis } from 'ioredis';
import { MongoBulkWriteError, MongoClient } from 'mongodb';

const { REDIS_URL, MONGO_URL, MONGO_DB, STREAM, GROUP } = process.env;
const READ_EVENTS_TARGET = 2000;
const READ_ENTRIES_MAX = 1000;
const READ_BLOCK_MS = 1000;
const DUPLICATE_KEY = 11000;

const redis = new Redis(REDIS_URL, { maxRetriesPerRequest: null });
const mongo = await MongoClient.connect(MONGO_URL, {
  writeConcern: { w: 'majority', journal: true },
});
const collection = mongo.db(MONGO_DB).collection('events');

try {
  await redis.xgroup('CREATE', STREAM, GROUP, '0', 'MKSTREAM');
} catch (error) {
  if (!error.message.startsWith('BUSYGROUP')) throw error;
}

function documentsOf([, [, events, , receivedAt]]) {
  const received_at = new Date(receivedAt);
  return JSON.parse(events).map(({ id, time, ...rest }) =>
    ({ _id: id, ...rest, time: new Date(time), received_at }));
}

async function insert(documents) {
  try {
    await collection.insertMany(documents, { ordered: false });
  } catch (error) {
    // An event that is there already was written by an earlier delivery.
    const only = (errors) => errors.every((one) => one.code === DUPLICATE_KEY);
    if (!(error instanceof MongoBulkWriteError) || !only([error.writeErrors].flat())) throw error;
  }
}

let stopped = false;
process.once('SIGTERM', () => (stopped = true));

// What was read before a restart and not acked comes first, then new entries.
let from = '0';
let count = 30;
while (!stopped) {
  const reply = await redis.xreadgroup(
    'GROUP', GROUP, 'worker-1', 'COUNT', count, 'BLOCK', READ_BLOCK_MS,
    'STREAMS', STREAM, from);
  const entries = reply?.[0][1] ?? [];
  if (entries.length === 0) {
    from = '>';
    continue;
  }
  const documents = entries.flatMap(documentsOf);
  await insert(documents);
  await redis.xack(STREAM, GROUP, ...entries.map(([id]) => id));
  const perEntry = documents.length / entries.length;
  count = Math.min(READ_ENTRIES_MAX, Math.ceil(READ_EVENTS_TARGET / perEntry));
  if (from !== '>') from = entries.at(-1)[0];
}
await mongo.close();
await redis.quit();
