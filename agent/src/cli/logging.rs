//! Sets up logs as the file or the flags say: where, how important, in which shape.

use std::io::IsTerminal as _;
use std::sync::Mutex;

use ebbgate::config::{AgentConfig, Console, LogFormat, LogLevel, LogTarget};
use ebbgate_telemetry::Logfmt;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use super::env::Failure;

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
        LogFormat::Logfmt => base.event_format(Logfmt).fmt_fields(Logfmt).init(),
    }
    Ok(())
}
