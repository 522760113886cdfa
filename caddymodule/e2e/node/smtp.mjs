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

// A reply in place of consent.
function refusal(responseCode, message) {
  return Object.assign(new Error(message), { responseCode });
}

function serve(port, secure, door) {
  const server = new SMTPServer({
    secure,
    key: readFileSync(options.keyFile),
    cert: readFileSync(options.certFile),
    name: 'localhost',
    banner: 'smtp-server',
    size: 60 * 1024 * 1024,
    authMethods: door?.loginOnly ? ['LOGIN'] : ['XOAUTH2', 'PLAIN'],
    authOptional: Boolean(door?.open),
    disabledCommands: [...(door?.open ? ['AUTH'] : []), ...(door?.plaintext ? ['STARTTLS'] : [])],
    allowInsecureAuth: Boolean(door?.plaintext),
    hidePIPELINING: Boolean(door && !door.pipelining),
    hideDSN: !door,
    hideREQUIRETLS: !door?.requireTLS,
    onConnect(session, done) {
      if (door) console.log(JSON.stringify({ connected: door.name }));
      done();
    },
    async onAuth(auth, session, done) {
      try {
        if (door) console.log(JSON.stringify({ door: door.name, mechanism: auth.method }));
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
    onMailFrom(address, session, done) {
      done(address.address === 'refused@example.com' ? refusal(553, '5.7.1 Not your address') : null);
    },
    onRcptTo(address, session, done) {
      if (address.address === 'refused@example.net') return done(refusal(550, '5.1.1 No such user'));
      if (address.address === 'later@example.net') return done(refusal(450, '4.2.1 Not now'));
      done();
    },
    onData(stream, session, done) {
      const file = join(options.folder, `${++count}.eml`);
      const envelope = {
        from: session.envelope.mailFrom.address,
        to: session.envelope.rcptTo.map((r) => r.address),
        file,
        dsn: session.envelope.dsn,
        notify: session.envelope.rcptTo.map((r) => r.dsn?.notify),
        bodyType: session.envelope.bodyType,
        smtputf8: session.envelope.smtpUtf8,
        requireTLS: session.envelope.requireTLS,
      };
      pipeline(stream, createWriteStream(file), (error) => {
        if (error) return done(error);
        if (/^X-Refuse:/m.test(readFileSync(file, 'latin1').split('\r\n\r\n', 1)[0])) return done(refusal(554, '5.6.0 Not this'));
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
for (const door of options.doors) await serve(door.port, door.implicit, door);
console.log('ready');
