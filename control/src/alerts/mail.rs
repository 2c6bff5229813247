//! Alerts as e-mail, by the operator's SMTP server. A queue of its own: a server that hangs delays nothing but mail.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::state::Change;
use crate::api::timestamp;
use crate::error_chain::ErrorChain;
use crate::file::{self, FileError};

/// Mails that wait for the server.
const QUEUE_MAX: usize = 100;
/// Seconds for one exchange with the server.
const SMTP_SECS_MAX: u64 = 60;
/// How often a mail is tried.
const TRIES_MAX: u32 = 8;
/// Seconds until the second try; then twice as long each time.
const RETRY_SECS_MIN: u64 = 30;
/// Alerts in one mail.
const ALERTS_MAX: usize = 100;

/// How the connection to the server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SmtpTls {
    /// STARTTLS, and nothing without it.
    Starttls,
    /// TLS from the beginning.
    Tls,
    /// None: for a server on this machine.
    None,
}

/// Why no mail can be sent.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// An address.
    #[error("`{0}` is no e-mail address")]
    Address(String),
    /// The server's address.
    #[error("--alert-smtp must be `host:port`, not `{0}`")]
    Server(String),
    /// TLS.
    #[error("TLS for mail cannot be set up: {0}")]
    Tls(lettre::transport::smtp::Error),
    /// The password's file.
    #[error(transparent)]
    Password(#[from] FileError),
}

/// Sends mail.
#[derive(Clone)]
pub(super) struct Mail {
    queue: mpsc::Sender<(String, String)>,
}

/// What mail needs.
#[derive(Debug, Clone)]
pub(crate) struct Settings<'a> {
    pub(crate) server: &'a str,
    pub(crate) tls: SmtpTls,
    /// User name, and the file that holds the password.
    pub(crate) login: Option<(&'a str, &'a Path)>,
    pub(crate) from: &'a str,
    pub(crate) to: &'a [String],
}

impl Mail {
    /// Prepares mail; the second part sends it, for ever.
    pub(crate) fn open(
        settings: &Settings<'_>,
    ) -> Result<(Self, impl Future<Output = ()> + use<>), MailError> {
        let mailbox = |text: &str| text.parse::<Mailbox>().map_err(|_| MailError::Address(text.to_owned()));
        let from = mailbox(settings.from)?;
        let to = settings.to.iter().map(|to| mailbox(to)).collect::<Result<Vec<_>, _>>()?;
        let damaged = || MailError::Server(settings.server.to_owned());
        let (host, port) = settings.server.rsplit_once(':').ok_or_else(damaged)?;
        let port: u16 = port.parse().map_err(|_| damaged())?;
        let parameters = || TlsParameters::new(host.to_owned()).map_err(MailError::Tls);
        let tls = match settings.tls {
            SmtpTls::Starttls => Tls::Required(parameters()?),
            SmtpTls::Tls => Tls::Wrapper(parameters()?),
            SmtpTls::None => Tls::None,
        };
        let builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host).port(port).tls(tls);
        let mut builder = builder.timeout(Some(Duration::from_secs(SMTP_SECS_MAX)));
        if let Some((user, password)) = settings.login {
            let password = file::read(password)?.trim_end_matches(['\r', '\n']).to_owned();
            builder = builder.credentials(Credentials::new(user.to_owned(), password));
        }
        let (queue, mails) = mpsc::channel(QUEUE_MAX);
        Ok((Self { queue }, send_all(builder.build(), from, to, mails)))
    }

    /// Queues one mail about these changes.
    pub(crate) fn tell(&self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        if self.queue.try_send((subject(changes), text(changes))).is_err() {
            tracing::error!(
                changes = changes.len(),
                "alerts are not mailed: too many mails wait for the server"
            );
        }
    }
}

fn subject(changes: &[Change]) -> String {
    let word = |change: &Change| if matches!(change, Change::Raised(_)) { "raised" } else { "cleared" };
    match changes {
        [one] => {
            format!("Ebbgate: {} {}: {}", one.alert().name, word(one), plain(&one.alert().condition.subject))
        }
        many => format!("Ebbgate: {} alerts", many.len()),
    }
}

fn text(changes: &[Change]) -> String {
    let mut text = String::new();
    for change in changes.iter().take(ALERTS_MAX) {
        let word = if matches!(change, Change::Raised(_)) { "RAISED" } else { "CLEARED" };
        let alert = change.alert();
        let since = timestamp(alert.since);
        let message = plain(&alert.condition.message);
        let _ = write!(text, "{word} {} since {since}: {message}\r\n", alert.name);
    }
    if let Some(more) = changes.len().checked_sub(ALERTS_MAX).filter(|more| *more > 0) {
        let _ = write!(text, "and {more} more\r\n");
    }
    text
}

/// Without what would end a line.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

async fn send_all(
    server: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    to: Vec<Mailbox>,
    mut mails: mpsc::Receiver<(String, String)>,
) {
    while let Some((subject, text)) = mails.recv().await {
        let builder = Message::builder().from(from.clone()).subject(subject);
        let builder = to.iter().cloned().fold(builder, lettre::message::MessageBuilder::to);
        let message = match builder.body(text) {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(%error, "an alert cannot be written as mail");
                continue;
            }
        };
        for tried in 1..=TRIES_MAX {
            let Err(error) = server.send(message.clone()).await else { break };
            let lost = tried == TRIES_MAX || error.is_permanent();
            tracing::error!(error = %ErrorChain(&error), tried, lost, "alerts were not mailed");
            if lost {
                break;
            }
            sleep(Duration::from_secs(RETRY_SECS_MIN << (tried - 1))).await;
        }
    }
    // Control is stopping.
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::super::state::{Alert, Condition};
    use super::*;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    fn raised(subject: &str) -> Change {
        Change::Raised(Alert {
            name: "edge_gone".into(),
            since: 1_767_225_600,
            condition: Condition {
                subject: subject.into(),
                account: None,
                message: format!("the edge {subject} is gone"),
                raise_secs: 0,
                clear_secs: 0,
            },
        })
    }

    /// A small SMTP server: takes one mail a connection; the first recipient is refused for now as often as asked.
    async fn serve(listener: TcpListener, mut refusals: usize, mails: mpsc::Sender<String>) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            write.write_all(b"220 test\r\n").await.unwrap();
            let mut mail = String::new();
            let mut is_data = false;
            while let Ok(Some(line)) = lines.next_line().await {
                if is_data {
                    is_data = line != ".";
                    if is_data {
                        mail.push_str(&line);
                        mail.push('\n');
                    } else {
                        write.write_all(b"250 taken\r\n").await.unwrap();
                        mails.send(std::mem::take(&mut mail)).await.unwrap();
                    }
                    continue;
                }
                let answer: &[u8] = match line.split([' ', ':']).next().unwrap() {
                    "EHLO" => b"250-test\r\n250 AUTH PLAIN LOGIN\r\n",
                    "AUTH" => {
                        mail.push_str(&line);
                        mail.push('\n');
                        b"235 ok\r\n"
                    }
                    "RCPT" if refusals > 0 => {
                        refusals -= 1;
                        b"451 later\r\n"
                    }
                    "DATA" => {
                        is_data = true;
                        b"354 go on\r\n"
                    }
                    _ => b"250 ok\r\n",
                };
                write.write_all(answer).await.unwrap();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn alerts_are_mailed_with_a_login_and_again_when_the_server_asks_for_patience() {
        let dir = tempfile::tempdir().unwrap();
        let password = dir.path().join("password");
        std::fs::write(&password, "hunter2\n").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let (taken, mut mails) = mpsc::channel(10);
        let server = tokio::spawn(serve(listener, 1, taken));
        let settings = Settings {
            server: &at,
            tls: SmtpTls::None,
            login: Some(("ann", &password)),
            from: "gate@example.com",
            to: &["ops@example.com".to_owned()],
        };
        let (mail, sending) = Mail::open(&settings).unwrap();
        let sender = tokio::spawn(sending);
        mail.tell(&[raised("edge_1\r\nBcc: x")]);
        let text = mails.recv().await.unwrap();
        assert!(text.contains("AUTH PLAIN"), "{text}");
        for line in [
            "Subject: Ebbgate: edge_gone raised: edge_1",
            "To: ops@example.com",
            "RAISED edge_gone since 2026-01-01T00:00:00Z",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("\nBcc:"), "{text}");
        mail.tell(&[raised("edge_1"), raised("edge_2")]);
        // A mail is sent again when its answer is late.
        while !mails.recv().await.unwrap().contains("Subject: Ebbgate: 2 alerts") {}
        sender.abort();
        server.abort();
    }

    #[tokio::test]
    async fn settings_that_cannot_be_are_refused() {
        let settings = Settings {
            server: "localhost",
            tls: SmtpTls::None,
            login: None,
            from: "gate@example.com",
            to: &["ops@example.com".to_owned()],
        };
        let error = |settings: &Settings<'_>| Mail::open(settings).err().unwrap().to_string();
        assert!(error(&settings).contains("host:port"));
        assert!(error(&Settings { server: "a:25", from: "nobody", ..settings.clone() }).contains("e-mail"));
    }
}
