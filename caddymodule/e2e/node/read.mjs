// Reads the messages whose files are named, with mailparser, and prints what it
// understood as a JSON list.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { simpleParser } from 'mailparser';

const people = (field) => [field ?? []].flat().flatMap((f) => f.value ?? []).map((a) => [a.name, a.address]);

const out = [];
for (const file of process.argv.slice(2)) {
  const m = await simpleParser(readFileSync(file), { skipHtmlToText: true, skipTextToHtml: true, skipImageLinks: true });
  out.push({
    subject: m.subject ?? '',
    from: people(m.from),
    to: people(m.to),
    cc: people(m.cc),
    bcc: people(m.bcc),
    reply_to: people(m.replyTo),
    message_id: m.messageId ?? '',
    text: m.text ?? '',
    html: m.html || '',
    attachments: m.attachments.map((a) => ({
      filename: a.filename ?? '',
      type: a.contentType,
      content_id: a.cid ?? '',
      disposition: a.contentDisposition ?? '',
      size: a.content.length,
      sha256: createHash('sha256').update(a.content).digest('hex'),
    })),
  });
}
console.log(JSON.stringify(out));
