// An application that uses the official Resend SDK as its documentation says. Its
// base URL comes from RESEND_BASE_URL. It makes the calls that it is given as JSON, by
// the version of the SDK that its argument names, and prints what the SDK has told of
// each.
import { text } from 'node:stream/consumers';

const { Resend } = await import(process.argv[2]);
const calls = JSON.parse(await text(process.stdin));
const results = [];

// Bytes are what fs.readFile gives.
function emailOf({ html, attachments, ...email }) {
  return {
    ...email,
    html,
    attachments: attachments?.map(({ bytes, contentID, ...attachment }) => ({
      ...attachment,
      contentId: contentID,
      inlineContentId: contentID, // its name in 4.8
      ...(bytes && { content: Buffer.from(bytes, 'base64') }),
    })),
  };
}

function make(call) {
  const resend = new Resend(call.key);
  const id = call.id ?? results[call.of]?.id;
  const options = call.idempotency ? { idempotencyKey: call.idempotency } : undefined;
  switch (call.op) {
    case 'send': return resend.emails.send(emailOf(call.email), options);
    case 'batch': return resend.batch.send(call.emails.map(emailOf), call.permissive ? { ...options, batchValidation: 'permissive' } : options);
    case 'get': return resend.emails.get(id);
    case 'list': return resend.emails.list();
    case 'update': return resend.emails.update({ id, scheduledAt: call.scheduledAt });
    case 'cancel': return resend.emails.cancel(id);
    case 'domains': return resend.domains.list();
    default: throw new Error(`no call ${call.op}`);
  }
}

for (const call of calls) {
  const { data, error, headers } = await make(call);
  const rate = error && headers && {
    rateLimit: error.name === 'rate_limit_exceeded',
    limit: headers['ratelimit-limit'], remaining: headers['ratelimit-remaining'], reset: headers['ratelimit-reset'],
    retryAfter: headers['retry-after'],
  };
  results.push(error ? { error: { ...error, ...rate } } : { id: data.id, data });
}
console.log(JSON.stringify(results));
