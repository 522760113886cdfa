// Sends what is posted to it with nodemailer's pool: the usual way to do it in Node. The
// first argument is JSON; it prints the port that it listens at.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { createTransport } from 'nodemailer';

const wish = JSON.parse(process.argv[2]);
// As nodemailer connects by itself, Nagle's algorithm keeps the end of each message back
// for as long as the server delays its acknowledgement: 40 ms.
function getSocket({ port, host }, done) {
  const connection = connect({ port, host, noDelay: true });
  connection.once('error', done);
  connection.once('connect', () => done(null, { connection }));
}

const transport = createTransport({
  getSocket,
  pool: true,
  maxConnections: wish.connections,
  maxMessages: Infinity,
  host: 'localhost',
  port: wish.port,
  requireTLS: true,
  tls: { ca: readFileSync(wish.ca) },
  auth: { type: 'OAuth2', user: 'a@example.com', accessToken: 'secret-token' },
});

async function send(body) {
  const { to, subject, text, html, attachments } = JSON.parse(body);
  const message = {
    from: 'a@example.com', to, subject, text, html,
    attachments: attachments?.map(({ filename, content }) => ({ filename, content, encoding: 'base64' })),
  };
  const { messageId } = await transport.sendMail(message);
  return { id: messageId };
}

const server = createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', async () => {
    let status = 200;
    const answer = await send(Buffer.concat(parts).toString()).catch((error) => {
      status = 500;
      return { message: error.message };
    });
    const text = JSON.stringify(answer);
    response.writeHead(status, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(text) });
    response.end(text);
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
