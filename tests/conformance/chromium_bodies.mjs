// What Debian's Chromium makes of bodies in content codings. One argument: JSON, see browser.mjs, and `paths`.
// Prints one JSON object: for each path the body's text, its coding, and its bytes as they came.
import { open, whole } from './browser.mjs';

const want = JSON.parse(process.argv[2]);
const { look, until, go, end } = await open(want);

try {
  await go('/');
  await until(`${whole} && location.host === '${want.host}'`);
  const saw = {};
  for (const path of want.paths) {
    saw[path] = await look(`(async () => {
      const answer = await fetch('${path}');
      const text = await answer.text();
      const [entry] = performance.getEntriesByName(answer.url);
      return { text, coding: answer.headers.get('content-encoding'), came: entry.encodedBodySize };
    })()`);
  }
  process.stdout.write(`${JSON.stringify(saw)}\n`, () => end(0));
} catch (error) {
  console.error(error);
  end(1);
}
