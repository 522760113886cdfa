// Sends a message from a file with nodemailer, as the JSON in the first argument says.
import { readFileSync } from 'node:fs';
import { createTransport } from 'nodemailer';

const wish = JSON.parse(process.argv[2]);
const transport = createTransport({
  host: 'localhost',
  port: wish.port,
  name: wish.greeting,
  secure: wish.tls === 'implicit',
  requireTLS: wish.tls === 'starttls',
  ignoreTLS: wish.tls === 'off',
  tls: { ca: readFileSync(wish.ca) },
  ...(wish.mechanism && { auth: { user: wish.user, pass: wish.password }, authMethod: wish.mechanism }),
});
await transport.sendMail({ envelope: { from: wish.from, to: [wish.to] }, raw: readFileSync(wish.file) });
transport.close();
