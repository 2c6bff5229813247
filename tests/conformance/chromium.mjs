// Debian's Chromium as a visitor who signs in at npm `oidc-provider`. One argument: JSON, see browser.mjs.
// Prints one JSON object: what the visitor saw at each step.
import { open, whole } from './browser.mjs';

const want = JSON.parse(process.argv[2]);
const { call, look, until, go, end } = await open(want);

try {
  const signIn = async (login) => {
    await until(`${whole} && document.querySelector('input[name=login]') !== null`);
    await look(`document.querySelector('input[name=login]').value = '${login}';
      document.querySelector('input[name=password]').value = 'x'; document.querySelector('form').submit(); true`);
    // The page that asks for consent has no login; the endpoint's own page ends it.
    await until(`${whole} && (location.host === '${want.host}' ||
      (document.querySelector('input[name=prompt][value=consent]') !== null && (document.querySelector('form').submit(), true)))`);
    return until(`${whole} && location.host === '${want.host}' && document.body.innerText`);
  };
  const cookies = async () => {
    const all = await call('Network.getCookies', { urls: [`https://${want.host}/`] });
    return all.cookies.map(({ name, httpOnly, secure, sameSite }) => ({ name, httpOnly, secure, sameSite }));
  };

  const saw = {};
  await go('/visits?day=1');
  saw.first = await signIn('ann');
  saw.url = await look('location.href');
  saw.script = await look('document.cookie');
  saw.cookies = await cookies();
  saw.fetched = await look(`fetch('/data').then((answer) => answer.status)`);
  await go('/ngrok/logout');
  saw.logout = await until(`${whole} && location.pathname === '/ngrok/logout' && document.body.innerText`);
  saw.cookiesAfter = await cookies();
  saw.fetchedAfter = await look(`fetch('/data').then((answer) => answer.status)`);
  await go('/ngrok/login?redirect_path=/again');
  saw.again = await signIn('dora');
  saw.urlAgain = await look('location.href');
  process.stdout.write(`${JSON.stringify(saw)}\n`, () => end(0));
} catch (error) {
  console.error(error);
  end(1);
}
