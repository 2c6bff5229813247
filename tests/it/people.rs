//! A person from the operator's link to an API key on their own machine, with the real programs: `user create`, the set-up page,
//! `ebbgate login`, a call with its key, and the operator's `user suspend`.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use ebbgate_lab::api::{Api, text};
use ebbgate_lab::http::{self, Answer};
use ebbgate_lab::test_lab::TestLab;

const PASSWORD: &str = "correct+horse+battery+staple";

/// A browser with one cookie, on this machine.
struct Browser {
    origin: String,
    cookie: String,
}

impl Browser {
    fn ask(&self, method: &str, path: &str, form: &str) -> Result<Answer> {
        let host = self.origin.strip_prefix("http://").context("the dashboard is at http://")?;
        let headers = [
            ("origin", self.origin.as_str()),
            ("cookie", self.cookie.as_str()),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        http::request(http::connect(host.parse()?)?, method, host, path, &headers, form.as_bytes())
    }
}

/// A login that ends with the test.
struct Login(Child);

impl Drop for Login {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_person_gets_a_key_by_the_browser_until_the_operator_says_otherwise() -> Result<()> {
    let lab = TestLab::control_only()?;
    let made = lab.control_command(&["user", "create", "--first-admin", "ann@example.com"])?;
    let url = text(&made, "setup_url")?;
    let (origin, setup) = url.split_once("/dashboard").context("a link to the dashboard")?;
    let mut browser = Browser { origin: origin.to_owned(), cookie: String::new() };
    let form = format!("password={PASSWORD}&again={PASSWORD}");
    let signed_in = browser.ask("POST", &format!("/dashboard{setup}"), &form)?;
    ensure!(signed_in.status == 303, "{signed_in:?}");
    let cookie = signed_in.header("set-cookie").context("a cookie")?;
    browser.cookie = cookie.split(';').next().unwrap_or_default().to_owned();

    let file = lab.file("agent.yml");
    let mut command = Command::new(lab.programs().agent());
    command.args(["login", "--api", origin, "--config"]).arg(&file).env("PATH", "");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut login = Login(command.spawn()?);
    let mut said = BufReader::new(login.0.stderr.take().context("standard error")?).lines();
    let page = said.find_map(|line| line.ok()?.trim().strip_prefix(origin).map(str::to_owned));
    let page = page.context("the address to open")?;

    let asked = browser.ask("GET", &page, "")?;
    ensure!(asked.status == 200 && asked.text().contains("asks to act as ann@example.com"), "{asked:?}");
    let shown = asked.text();
    let field = |name: &str| -> Result<String> {
        let after = shown.rsplit_once(&format!("name=\"{name}\" value=\"")).context("the field")?.1;
        Ok(after.split('"').next().unwrap_or_default().to_owned())
    };
    let fields = ["csrf", "port", "challenge", "state"].map(|name| Ok(format!("{name}={}", field(name)?)));
    let fields: Vec<String> = fields.into_iter().collect::<Result<_>>()?;
    let allowed = browser.ask("POST", "/dashboard/cli", &fields.join("&"))?;
    let back = allowed.header("location").context("the way back")?;
    let (host, path) = back.strip_prefix("http://").and_then(|b| b.split_once('/')).context("loopback")?;
    let answer = http::request(http::connect(host.parse()?)?, "GET", host, &format!("/{path}"), &[], b"")?;
    ensure!(answer.status == 200, "{answer:?}");

    let mut printed = String::new();
    std::io::Read::read_to_string(&mut login.0.stdout.take().context("standard output")?, &mut printed)?;
    ensure!(login.0.wait()?.success(), "{printed}");
    ensure!(printed.starts_with("Logged in as ann@example.com (owner) of "), "{printed}");
    let bits = std::fs::metadata(&file)?.permissions().mode();
    ensure!(bits & 0o777 == 0o600, "{bits:o}");
    let written = std::fs::read_to_string(&file)?;
    let key =
        written.split("api_key: ").nth(1).context("a key in the file")?.trim().trim_matches(['\'', '"']);
    let api = Api::new(origin.trim_start_matches("http://").parse()?, key);
    let (status, identity) = api.call("GET", "/self", None)?;
    ensure!(status == 200 && identity["user"]["id"] == made["user"], "{identity}");

    lab.control_command(&["user", "suspend", "ann@example.com"])?;
    ensure!(api.call("GET", "/self", None)?.0 == 401, "the key stops at once");
    ensure!(browser.ask("GET", "/dashboard", "")?.status == 303, "so does the session");
    Ok(())
}
