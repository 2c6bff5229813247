//! `LogFormat`, the words of `--log-format`, and the logfmt form: `key=value` pairs, one event a line.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people at a terminal.
    Term,
    /// `key=value` pairs.
    Logfmt,
    /// One JSON object a line.
    Json,
}

/// A word that names no form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFormatError(String);

impl fmt::Display for LogFormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not one of `term`, `logfmt`, `json`", self.0)
    }
}

impl std::error::Error for LogFormatError {}

impl LogFormat {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Term, Self::Logfmt, Self::Json];

    /// The word of files and flags.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Term => "term",
            Self::Logfmt => "logfmt",
            Self::Json => "json",
        }
    }
}

impl FromStr for LogFormat {
    type Err = LogFormatError;

    fn from_str(text: &str) -> Result<Self, LogFormatError> {
        let all = Self::ALL.into_iter();
        all.into_iter().find(|format| format.as_str() == text).ok_or_else(|| LogFormatError(text.to_owned()))
    }
}

/// `t=… lvl=info msg="endpoint online" name=…`: the keys that the published agent uses. Fields of spans follow the event's.
///
/// Give it to `event_format` and to `fmt_fields`.
#[derive(Debug, Clone, Copy)]
pub struct Logfmt;

impl<S, N> FormatEvent<S, N> for Logfmt
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str("t=")?;
        SystemTime.format_time(&mut writer)?;
        write!(writer, " lvl={}", event.metadata().level().as_str().to_ascii_lowercase())?;
        let mut pairs = Pairs::default();
        event.record(&mut pairs);
        write!(writer, " msg={}{}", quoted(&pairs.message), pairs.text)?;
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            if let Some(fields) = extensions.get::<FormattedFields<N>>().filter(|f| !f.fields.is_empty()) {
                write!(writer, " {}", fields.fields)?;
            }
        }
        writeln!(writer)
    }
}

impl<'writer> FormatFields<'writer> for Logfmt {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut pairs = Pairs::default();
        fields.record(&mut pairs);
        writer.write_str(pairs.text.trim_start())
    }
}

#[derive(Default)]
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
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[test]
    fn no_value_forges_a_line() {
        assert_eq!(quoted("https://a.internal"), "https://a.internal");
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted(""), "\"\"");
        assert_eq!(quoted("x\nlvl=info"), "\"x\\nlvl=info\"");
        assert_eq!(quoted("a=\"b\""), "\"a=\\\"b\\\"\"");
    }

    #[test]
    fn every_word_leads_back_to_its_form_and_others_are_refused_by_name() {
        for format in LogFormat::ALL {
            assert_eq!(format.as_str().parse(), Ok(format));
        }
        let error = "plain".parse::<LogFormat>().unwrap_err().to_string();
        assert_eq!(error, "`plain` is not one of `term`, `logfmt`, `json`");
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn fields_of_spans_are_on_the_line_and_cannot_forge_another() {
        let sink = Sink::default();
        let writer = sink.clone();
        let log = tracing_subscriber::fmt().event_format(Logfmt).fmt_fields(Logfmt);
        let log = log.with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || {
            let span = tracing::info_span!("api", operation = "op 1\nlvl=error");
            tracing::info!(parent: &span, status = 204, path = "/a b", "api call");
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let end = " lvl=info msg=\"api call\" status=204 path=\"/a b\" operation=\"op 1\\nlvl=error\"\n";
        assert!(text.starts_with("t=") && text.ends_with(end), "{text}");
    }
}
