// A person at a real browser: Chromium. It takes the steps that it is given and
// prints, as JSON, every page that it came to.
//
//	["open", url]  ["fill", selector, text]  ["press", selector]
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const options = JSON.parse(process.argv[2]);
const profile = mkdtempSync(join(tmpdir(), 'e2e-chromium-'));
const pages = [];
let context;
try {
  context = await chromium.launchPersistentContext(profile, {
    executablePath: options.chromium,
    headless: true,
    args: [
      '--no-sandbox', // it runs as root, and opens pages of this suite only
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      // oidc-provider's pages ask for fonts from elsewhere.
      '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1',
    ],
  }).catch((error) => {
    throw new Error(`Chromium does not start: ${error.message}`);
  });
  context.setDefaultTimeout(30_000);
  const page = context.pages()[0] ?? await context.newPage();
  let status = 0;
  page.on('response', (r) => {
    if (r.request().isNavigationRequest() && r.frame() === page.mainFrame()) status = r.status();
  });
  const faults = [];
  page.on('pageerror', (error) => faults.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error') faults.push(message.text());
  });
  const note = async () => {
    await page.waitForLoadState('load');
    pages.push({
      url: page.url(),
      status,
      title: await page.title(),
      text: await page.locator('body').innerText(),
      body: await page.content(),
      cookies: (await context.cookies(page.url())).map(({ name, httpOnly, sameSite, secure }) => ({ name, httpOnly, sameSite, secure })),
      faults: faults.splice(0),
    });
  };
  for (const [what, ...rest] of options.steps) {
    if (what === 'open') {
      await page.goto(rest[0]);
      await note();
    } else if (what === 'fill') {
      await page.locator(rest[0]).fill(rest[1]);
    } else if (what === 'press') {
      const gone = page.waitForNavigation({ waitUntil: 'load' });
      await page.locator(rest[0]).first().click();
      await gone;
      await note();
    }
  }
  console.log(JSON.stringify(pages));
} catch (error) {
  console.error(`${error.message}\npages so far: ${JSON.stringify(pages.map(({ url, status, text }) => ({ url, status, text })))}`);
  process.exitCode = 1;
} finally {
  await context?.close();
  rmSync(profile, { recursive: true, force: true });
}
