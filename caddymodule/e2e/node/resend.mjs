// An application that uses the official Resend SDK as its documentation says. Its
// base URL comes from RESEND_BASE_URL. It sends each message that it is given,
// by a client with the key beside it, and prints the SDK's results as JSON.
import { Resend } from 'resend';

const calls = JSON.parse(process.argv[2]);
const results = [];
for (const { key, message } of calls) {
  for (const a of message.attachments ?? []) {
    if (a.buffer) { // what fs.readFile gives
      a.content = Buffer.from(a.buffer, 'base64');
      delete a.buffer;
    }
  }
  const { data, error } = await new Resend(key).emails.send(message);
  results.push({ data, error });
}
console.log(JSON.stringify(results));
