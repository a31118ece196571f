// JSON schema of an event, as Fastify checks it (Ajv) before a handler runs.

const attribute = { type: 'string', minLength: 1, maxLength: 2000 };

export const event = {
  type: 'object',
  required: ['type'],
  additionalProperties: false,
  properties: {
    id: { type: 'string', minLength: 1, maxLength: 128 },
    type: attribute,
    source: attribute,
    subject: attribute,
    time: { type: 'string', format: 'date-time' },
    data: {},
  },
};

export const events = { type: 'array', items: event, minItems: 1, maxItems: 10_000 };
