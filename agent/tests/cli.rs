//! The command as its users run it: exit codes, messages, the service's files, and runs against a small TLS edge that
//! refuses or serves.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ebbgate_model::JoinString;
use ebbgate_tunnel::driver::{self, Stream};
use ebbgate_tunnel::{heartbeat, rpc_io};
use ebbgate_wire::mux::{Limits, Role};
use ebbgate_wire::rpc::{AuthReply, Bind, BindReply, Secret, StreamKind, UnbindReply, error_text};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio_rustls::TlsAcceptor;

/// Longest a started agent may take to say or do what a test waits for.
const SOON: Duration = Duration::from_secs(20);

fn ebbgate(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ebbgate"));
    command.env_clear().env("HOME", directory).current_dir(directory).kill_on_drop(true);
    command
}

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

async fn run(directory: &Path, arguments: &[&str]) -> Ran {
    let running = ebbgate(directory).args(arguments).stdin(Stdio::null()).output();
    let output = tokio::time::timeout(SOON, running).await.expect("ends by itself").unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn file(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path
}

const POOL: &str = "version: 3
agent:
  authtoken: t
  endpoints:
    - name: a
      url: https://service.internal
      pooling_enabled: true
      upstream: {url: 8080}
";

/// The same with an edge. Its authority stands beside the file.
fn ready(directory: &Path) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    file(directory, "ca.pem", &issuer.as_ref().pem());
    POOL.replace("  authtoken: t\n", "  authtoken: t\n  connect_url: edge.example\n  connect_cas: ca.pem\n")
}

#[tokio::test]
async fn config_check_says_what_and_where() {
    let directory = tempfile::tempdir().unwrap();
    file(directory.path(), "good.yml", &ready(directory.path()));
    let good = run(directory.path(), &["config", "check", "--config", "good.yml"]).await;
    assert_eq!(good.code, Some(0), "{}", good.stderr);
    assert_eq!(good.stdout, "Valid configuration file at good.yml\n");
    assert!(good.stderr.starts_with("WARNING:  good.yml:6:3: agent.endpoints:"), "{}", good.stderr);

    file(directory.path(), "bad.yml", &POOL.replace("8080", "80 80").replace("name: a", "nam: a"));
    let bad = run(directory.path(), &["config", "check", "--config", "bad.yml"]).await;
    assert_eq!(bad.code, Some(1));
    assert!(
        bad.stderr.contains("ERROR:  bad.yml:5:7: agent.endpoints[0].nam: unknown key; did you mean `name`?")
            || bad.stderr.contains("bad.yml:5:7: endpoints[0].nam: unknown key; did you mean `name`?"),
        "{}",
        bad.stderr
    );

    let missing = run(directory.path(), &["config", "check", "--config", "none.yml"]).await;
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.contains("cannot read none.yml"));
    let nothing = run(directory.path(), &["config", "check"]).await;
    assert_eq!(nothing.code, Some(1));
}

#[tokio::test]
async fn config_check_refuses_a_file_that_cannot_start() {
    let directory = tempfile::tempdir().unwrap();
    let good = ready(directory.path());
    let check = async |text: &str, expect: Option<&str>| {
        file(directory.path(), "agent.yml", text);
        let ran = run(directory.path(), &["config", "check", "--config", "agent.yml"]).await;
        assert_eq!(ran.code, Some(i32::from(expect.is_some())), "{text}: {}", ran.stderr);
        assert!(ran.stderr.contains(expect.unwrap_or_default()), "{text}: {}", ran.stderr);
    };
    check(&good, None).await;
    check(&good.replace("  authtoken: t\n", ""), Some("there is no authtoken")).await;
    check(&good.replace("  connect_url: edge.example\n", ""), Some("no edge to connect to")).await;
    check(&good.replace("ca.pem", "none.pem"), Some("connect_cas: ")).await;
    check(&good.replace("edge.example", "-.-"), Some("connect_url: ")).await;
    let proxied =
        good.replace("  authtoken: t\n", "  authtoken: t\n  carrier: quic\n  proxy_url: http://p:1\n");
    check(&proxied, Some("`carrier: quic` cannot go through proxy_url")).await;
    // The environment counts, as it does for a start.
    file(directory.path(), "agent.yml", &good.replace("  authtoken: t\n", ""));
    let mut with_token = ebbgate(directory.path());
    with_token.args(["config", "check", "--config", "agent.yml"]).env("EBBGATE_AUTHTOKEN", "t");
    assert!(with_token.output().await.unwrap().status.success());
}

#[tokio::test]
async fn the_environment_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "mine.yml", &ready(directory.path()));
    let check = async |name: &str, value: &str| {
        let ran =
            ebbgate(directory.path()).args(["config", "check"]).env(name, value).output().await.unwrap();
        (ran.status.code(), String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap())
    };
    for name in ["EBBGATE_CONFIG", "NGROK_CONFIG"] {
        let (code, stdout, stderr) = check(name, path.to_str().unwrap()).await;
        assert_eq!(code, Some(0), "{name}: {stderr}");
        assert!(stdout.contains("mine.yml"), "{name}: {stdout}");
        let (code, _, stderr) = check(name, "none.yml").await;
        assert_eq!(code, Some(1), "a file that is named must be there");
        assert!(stderr.contains("cannot read none.yml"), "{name}: {stderr}");
    }
    let mut add = ebbgate(directory.path());
    add.args(["config", "add-authtoken", "abc"]).env("EBBGATE_CONFIG", "new.yml");
    assert!(add.output().await.unwrap().status.success());
    assert!(fs::read_to_string(directory.path().join("new.yml")).unwrap().contains("abc"));
}

#[tokio::test]
async fn an_authority_is_added_by_its_whole_path_and_must_be_one() {
    let directory = tempfile::tempdir().unwrap();
    ready(directory.path());
    file(directory.path(), "not.pem", "text");
    let add = async |who: &str| {
        let directory = directory.path();
        let ran = run(directory, &["config", "add-connect-cas", who, "--config", "agent.yml"]).await;
        (ran.code, fs::read_to_string(directory.join("agent.yml")).unwrap_or_default())
    };
    assert_eq!(add("none.pem").await.0, Some(1));
    assert_eq!(add("not.pem").await.0, Some(1));
    let (code, text) = add("ca.pem").await;
    let folder = directory.path();
    assert_eq!(code, Some(0));
    assert!(
        text.contains(&format!("connect_cas: \"{}/ca.pem\"", folder.canonicalize().unwrap().display())),
        "{text}"
    );
    assert!(add("host").await.1.contains("connect_cas: \"host\""));
}

#[tokio::test]
async fn keys_are_added_to_the_default_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(".config/ebbgate/ebbgate.yml");
    assert_eq!(run(directory.path(), &["config", "add-authtoken", "abc"]).await.code, Some(0));
    assert_eq!(
        run(directory.path(), &["config", "add-connect-url", "edge.example:4443"]).await.code,
        Some(0)
    );
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "version: 3\nagent:\n  connect_url: \"edge.example:4443\"\n  authtoken: \"abc\"\n"
    );
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(run(directory.path(), &["config", "add-connect-url", "https://x"]).await.code, Some(1));
}

#[tokio::test]
async fn one_string_joins_an_edge() {
    let directory = tempfile::tempdir().unwrap();
    let edge = SmallEdge::start(directory.path(), WILLING).await;
    let token = "0ujtsYcgvSTl8PAuAdqWYSMnLOv_abcdefghijklmnopqrstu";
    let pem = fs::read_to_string(&edge.ca).unwrap();
    let string = JoinString::new(&edge.address, token.parse().unwrap(), &pem).unwrap().expose();
    file(directory.path(), "agent.yml", "# mine\nversion: 3\nagent:\n  metadata: m\n");
    let join = async |string: &str| run(directory.path(), &["join", string, "--config", "agent.yml"]).await;
    let cut = join(&string[..string.len() - 9]).await;
    assert_eq!(cut.code, Some(1));
    assert!(
        cut.stderr.contains("damaged or incomplete") && !cut.stderr.contains("abcdefghij"),
        "{}",
        cut.stderr
    );
    assert!(!directory.path().join("connect-ca.pem").exists(), "nothing is written by half");
    let joined = join(&string).await;
    assert_eq!(joined.code, Some(0), "{}", joined.stderr);
    let text = fs::read_to_string(directory.path().join("agent.yml")).unwrap();
    assert!(text.starts_with("# mine\nversion: 3\n") && text.contains("metadata: m"), "{text}");
    assert!(!joined.stdout.contains("abcdefghij"), "the token is not printed");
    let mut child = ebbgate(directory.path())
        .args(["start", "--none", "--config", "agent.yml", "--log", "stdout"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    line(&mut child, |line| line.contains("session online")).await;
    assert_eq!(terminate(&mut child).await, Some(0));
}

/// Answers one request with a status and a JSON body, and tells what it was asked.
async fn answer_once(listener: TcpListener, status: &str, body: &str) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "a whole head comes");
    }
    let length = body.len();
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await.unwrap();
    String::from_utf8(request).unwrap().to_lowercase()
}

#[tokio::test]
async fn the_api_is_called_with_the_key_of_the_file_and_answers_are_printed() {
    let directory = tempfile::tempdir().unwrap();
    file(directory.path(), "agent.yml", "version: 3\nagent: {api_key: the-key}\n");
    let shown = r#"{"id":"ep_1","enforcement":{"restrict_ips":"xdp","dropped_packets":{"unlisted":6}}}"#;
    let refusal = r#"{"error_code":"ERR_NGROK_220","status_code":403,"msg":"not from here","details":{"operation_id":"op_1"}}"#;
    for (status, body, code, expect) in [
        ("200 OK", shown, 0, "\"unlisted\": 6"),
        (
            "403 Forbidden",
            refusal,
            1,
            "ERROR:  not from here\nERROR:  ERR_NGROK_220\nERROR:  operation_id: op_1",
        ),
        ("204 No Content", "", 0, ""),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let arguments =
            ["api", "endpoints", "get", "ep_1", "--config", "agent.yml", "--api-url", url.as_str()];
        let (ran, asked) =
            tokio::join!(run(directory.path(), &arguments), answer_once(listener, status, body));
        assert!(asked.starts_with("get /endpoints/ep_1 http/1.1\r\n"), "{asked}");
        assert!(asked.contains("authorization: bearer the-key\r\n"), "{asked}");
        assert!(asked.contains("ngrok-version: 2\r\n"), "{asked}");
        assert_eq!(ran.code, Some(code), "{}", ran.stderr);
        assert!(format!("{}{}", ran.stdout, ran.stderr).contains(expect), "{}{}", ran.stdout, ran.stderr);
    }
    let keyless = run(directory.path(), &["api", "root", "self"]).await;
    assert_eq!(keyless.code, Some(1));
    assert!(keyless.stderr.contains("there is no API key"), "{}", keyless.stderr);
}

#[tokio::test]
async fn a_service_is_installed_only_with_a_valid_file() {
    let directory = tempfile::tempdir().unwrap();
    let good = ready(directory.path());
    let config = file(directory.path(), "agent.yml", &good);
    let root = directory.path().join("root");
    let root = root.to_str().unwrap();
    let install = ["service", "install", "--config", "agent.yml", "--root", root];
    let done = run(directory.path(), &install).await;
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let unit = fs::read_to_string(Path::new(root).join("etc/systemd/system/ebbgate.service")).unwrap();
    let start = format!("start --all --service --config \"{}\"", config.canonicalize().unwrap().display());
    assert!(unit.contains(&start), "{unit}");
    assert_eq!(run(directory.path(), &["service", "uninstall", "--root", root]).await.code, Some(0));
    for (text, expect) in [
        ("version: 3\n".to_owned(), "there is no authtoken"),
        (good.replace("  authtoken: t\n", ""), "does not have the variables of this shell"),
        (good.replace("  connect_url: edge.example\n", ""), "no edge to connect to"),
        (good.split("  endpoints:").next().unwrap().to_owned(), "names no endpoint"),
        (good.replace("  authtoken: t\n", "  authtoken: t\n  log: /var/log/e.log\n"), "agent.log: "),
    ] {
        file(directory.path(), "agent.yml", &text);
        let mut command = ebbgate(directory.path());
        let ran = command.args(install).env("EBBGATE_AUTHTOKEN", "t").output().await.unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(1), "{text}");
        assert!(said.contains(expect), "{text}: {said}");
        assert!(!Path::new(root).join("etc/systemd/system/ebbgate.service").exists(), "{text}");
    }
}

#[tokio::test]
async fn nothing_starts_without_a_token_an_edge_or_an_endpoint() {
    let directory = tempfile::tempdir().unwrap();
    file(directory.path(), "agent.yml", POOL);
    let check = async |arguments: &[&str], expect: &str| {
        let ran = run(directory.path(), arguments).await;
        assert_eq!(ran.code, Some(1), "{arguments:?}");
        assert!(ran.stderr.contains(expect), "{arguments:?}: {}", ran.stderr);
    };
    check(&["start", "--all", "--config", "agent.yml"], "no edge to connect to").await;
    check(&["start", "--config", "agent.yml"], "the configuration has: a").await;
    check(&["start", "b", "--config", "agent.yml"], "there is no endpoint `b`").await;
    check(&["start", "--all"], "names no endpoint").await;
    check(&["http", "80"], "there is no authtoken").await;
    check(&["http", "8 0", "--authtoken", "t"], "upstream address: `8 0` is not a host").await;
    check(&["tcp", "80", "--authtoken", "t", "--url", "https://a.internal"], "--url: ").await;
    let version = run(directory.path(), &["version"]).await;
    assert_eq!((version.code, version.stdout.starts_with("ebbgate ")), (Some(0), true));
}

/// An edge of one scripted answer each to Auth and Bind.
#[derive(Clone, Copy)]
struct Script {
    refuse_auth: Option<u32>,
    refuse_bind: Option<u32>,
}

const WILLING: Script = Script { refuse_auth: None, refuse_bind: None };

struct SmallEdge {
    address: String,
    ca: PathBuf,
}

impl SmallEdge {
    async fn start(directory: &Path, script: Script) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf =
            CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        let ca = file(directory, "ca.pem", &issuer.as_ref().pem());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let (_session, mut incoming, driving) = driver::connect(tls, Role::Server, Limits::EDGE);
                    tokio::spawn(driving);
                    while let Some(stream) = incoming.accept().await {
                        tokio::spawn(answer(stream, script));
                    }
                });
            }
        });
        Self { address, ca }
    }

    fn flags(&self) -> [&str; 6] {
        ["--connect-url", &self.address, "--connect-cas", self.ca.to_str().unwrap(), "--authtoken", "t"]
    }
}

async fn answer(mut stream: Stream, script: Script) -> Option<()> {
    let kind = stream.kind().await.ok()?;
    if kind == StreamKind::Heartbeat {
        return heartbeat::echo(stream, || {}).await.ok();
    }
    let request = rpc_io::read_object(&mut stream).await.ok()?;
    match kind {
        StreamKind::Auth => {
            let reply = match script.refuse_auth {
                Some(code) => AuthReply::refused(error_text("The authtoken is not valid.", code)),
                None => AuthReply { version: "3".into(), client_id: "c".into(), ..AuthReply::default() },
            };
            rpc_io::write_object(&mut stream, &reply).await.ok()
        }
        StreamKind::Bind => {
            let bind = Bind::decode(request).unwrap();
            let url = bind.opts.0.get("URL").and_then(|url| url.as_str()).unwrap().parse().unwrap();
            let reply = match script.refuse_bind {
                Some(code) => BindReply::refused(&bind, error_text("That endpoint is not yours.", code)),
                None => bind.reply("b1".into(), &url, Secret::new("k"), "tn_1".into()),
            };
            rpc_io::write_object(&mut stream, &reply).await.ok()
        }
        _ => rpc_io::write_object(&mut stream, &UnbindReply::default()).await.ok(),
    }
}

#[tokio::test]
async fn refusals_of_a_first_start_end_with_an_error_block_and_code_1() {
    let check = async |script: Script, verb: &[&str], expect: &str| {
        let directory = tempfile::tempdir().unwrap();
        file(directory.path(), "agent.yml", POOL);
        let edge = SmallEdge::start(directory.path(), script).await;
        let ran = run(directory.path(), &[verb, &edge.flags()].concat()).await;
        assert_eq!(ran.code, Some(1), "{verb:?}");
        assert!(ran.stderr.contains(&format!("\nERROR:  {expect}\n")), "{verb:?}: {}", ran.stderr);
    };
    let http = ["http", "80", "--url", "https://a.internal"];
    let start = ["start", "--all", "--config", "agent.yml"];
    check(Script { refuse_auth: Some(107), ..WILLING }, &http, "ERR_NGROK_107").await;
    check(Script { refuse_auth: Some(105), ..WILLING }, &start, "ERR_NGROK_105").await;
    check(Script { refuse_bind: Some(316), ..WILLING }, &http, "ERR_NGROK_316").await;
    check(Script { refuse_bind: Some(334), ..WILLING }, &http, "ERR_NGROK_334").await;
    check(Script { refuse_bind: Some(316), ..WILLING }, &start, "ERR_NGROK_316").await;
}

/// The first line of standard output that `wanted` likes.
async fn line(child: &mut Child, wanted: impl Fn(&str) -> bool) -> String {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reading = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if wanted(&line) {
                return line;
            }
        }
        panic!("ended without saying it");
    };
    let found = tokio::time::timeout(SOON, reading).await.expect("said in time");
    // The pipe stays open, or the agent's later lines would fail.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    found
}

async fn terminate(child: &mut Child) -> Option<i32> {
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    tokio::time::timeout(SOON, child.wait()).await.expect("ends in time").unwrap().code()
}

#[tokio::test]
async fn a_healthy_start_logs_its_endpoints_and_ends_on_sigterm_with_code_0() {
    let directory = tempfile::tempdir().unwrap();
    file(directory.path(), "agent.yml", POOL);
    let edge = SmallEdge::start(directory.path(), WILLING).await;
    for (format, part) in [
        ("json", r#""message":"endpoint online","name":"a","url":"https://service.internal""#),
        ("logfmt", r#"msg="endpoint online" name=a url=https://service.internal"#),
        ("term", "endpoint online"),
    ] {
        let mut child = ebbgate(directory.path())
            .args(["start", "--all", "--config", "agent.yml", "--log-format", format])
            .args(edge.flags())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        line(&mut child, |line| line.contains(part)).await;
        assert_eq!(terminate(&mut child).await, Some(0));
    }
}

#[tokio::test]
async fn a_start_outlives_an_edge_that_is_away_and_a_name_that_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    file(directory.path(), "agent.yml", POOL);
    let taken = SmallEdge::start(directory.path(), Script { refuse_bind: Some(334), ..WILLING }).await;
    let away = ["--connect-url", "127.0.0.1:1", "--connect-cas", taken.ca.to_str().unwrap()];
    for (flags, part) in [(&taken.flags()[..], "ERR_NGROK_334"), (&away[..], "session offline")] {
        let mut child = ebbgate(directory.path())
            .args(["start", "--all", "--config", "agent.yml", "--log", "stdout"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        line(&mut child, |line| line.contains(part)).await;
        assert_eq!(terminate(&mut child).await, Some(0));
    }
}
