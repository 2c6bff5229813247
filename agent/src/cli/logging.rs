//! Sets up logs as the file or the flags say: where, how important, in which shape.

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;
use std::sync::Mutex;

use ebbgate::config::{AgentConfig, Console, LogFormat, LogLevel, LogTarget};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::Failure;

/// Whether people get plain lines on standard output.
pub(super) fn console(agent: &AgentConfig) -> bool {
    match agent.console {
        Console::On => true,
        Console::Off => false,
        // Logs asked for on standard output would be mixed with the lines.
        Console::IfTty => std::io::stdout().is_terminal() && agent.log != Some(LogTarget::Stdout),
    }
}

/// Installs the log of this process.
pub(super) fn install(agent: &AgentConfig, console: bool) -> Result<(), Failure> {
    let target = agent.log.clone().unwrap_or(if console { LogTarget::Off } else { LogTarget::Stdout });
    let (writer, terminal) = match &target {
        LogTarget::Off => return Ok(()),
        LogTarget::Stdout => (BoxMakeWriter::new(std::io::stdout), std::io::stdout().is_terminal()),
        LogTarget::Stderr => (BoxMakeWriter::new(std::io::stderr), std::io::stderr().is_terminal()),
        LogTarget::File(path) => {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            let file =
                file.map_err(|error| Failure::new(format!("cannot log to {}: {error}", path.display())))?;
            (BoxMakeWriter::new(Mutex::new(file)), false)
        }
    };
    let level = match agent.log_level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let base = tracing_subscriber::fmt().with_writer(writer).with_max_level(level).with_target(false);
    match agent.log_format.unwrap_or(if terminal { LogFormat::Term } else { LogFormat::Logfmt }) {
        LogFormat::Term => base.with_ansi(terminal).init(),
        LogFormat::Json => base.json().flatten_event(true).with_current_span(false).init(),
        LogFormat::Logfmt => base.event_format(Logfmt).init(),
    }
    Ok(())
}

/// `t=… lvl=info msg="endpoint online" name=…`: the keys that the published agent uses.
struct Logfmt;

impl<S, N> FormatEvent<S, N> for Logfmt
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str("t=")?;
        SystemTime.format_time(&mut writer)?;
        write!(writer, " lvl={}", event.metadata().level().as_str().to_ascii_lowercase())?;
        let mut pairs = Pairs { text: String::new(), message: String::new() };
        event.record(&mut pairs);
        write!(writer, " msg={}", quoted(&pairs.message))?;
        writeln!(writer, "{}", pairs.text)
    }
}

struct Pairs {
    text: String,
    message: String,
}

impl Pairs {
    fn push(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            write!(self.text, " {}={}", field.name(), quoted(value))
                .expect("writing to a string cannot fail");
        }
    }
}

impl Visit for Pairs {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, &format!("{value:?}"));
    }
}

/// Bare where that is unambiguous; otherwise quoted, so that no value can forge a line or a key.
fn quoted(value: &str) -> String {
    let bare = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '=' | '\\');
    if !value.is_empty() && value.chars().all(bare) { value.to_owned() } else { format!("{value:?}") }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn no_value_forges_a_line() {
        assert_eq!(quoted("https://a.internal"), "https://a.internal");
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted(""), "\"\"");
        assert_eq!(quoted("x\nlvl=info"), "\"x\\nlvl=info\"");
        assert_eq!(quoted("a=\"b\""), "\"a=\\\"b\\\"\"");
    }
}
