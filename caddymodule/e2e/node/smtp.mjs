// A mail server: smtp-server. It writes each message into a file and prints its
// envelope as one line of JSON; the first line printed is "ready".
import { createWriteStream, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pipeline } from 'node:stream';
import { SMTPServer } from 'smtp-server';

const options = JSON.parse(process.argv[2]);
let count = 0;

async function introspect(token) {
  const answer = await fetch(options.introspectionURL, {
    method: 'POST',
    headers: {
      authorization: `Basic ${Buffer.from(`mailserver:${options.introspectionSecret}`).toString('base64')}`,
      'content-type': 'application/x-www-form-urlencoded',
    },
    body: new URLSearchParams({ token }),
  });
  if (!answer.ok) throw new Error(`introspection: status ${answer.status}`);
  return answer.json();
}

function serve(port, secure) {
  const server = new SMTPServer({
    secure,
    key: readFileSync(options.keyFile),
    cert: readFileSync(options.certFile),
    name: 'localhost',
    banner: 'smtp-server',
    size: 60 * 1024 * 1024,
    authMethods: ['XOAUTH2', 'PLAIN'],
    async onAuth(auth, session, done) {
      try {
        if (auth.method !== 'XOAUTH2') {
          const right = auth.username === options.user && auth.password === options.password;
          return done(right ? null : new Error('Invalid login'), right ? { user: auth.username } : undefined);
        }
        const { active, username } = await introspect(auth.accessToken);
        if (!active || username !== auth.username) {
          return done(null, { data: { status: '401', schemes: 'bearer', scope: 'smtp.send' } });
        }
        done(null, { user: auth.username });
      } catch (error) {
        done(error);
      }
    },
    onData(stream, session, done) {
      const file = join(options.folder, `${++count}.eml`);
      const envelope = {
        from: session.envelope.mailFrom.address,
        to: session.envelope.rcptTo.map((r) => r.address),
        file,
      };
      pipeline(stream, createWriteStream(file), (error) => {
        if (error) return done(error);
        console.log(JSON.stringify(envelope));
        done();
      });
    },
  });
  server.on('error', (error) => console.error(error.message));
  return new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
}

await serve(options.starttlsPort, false);
await serve(options.implicitPort, true);
console.log('ready');
