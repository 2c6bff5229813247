//! `Exposition`: the two text forms of metrics, and which of them a scraper's `Accept` header asks for.
//!
//! Programs write `OpenMetrics`; scrapers that do not ask for it get the older Prometheus text, as `promtool check metrics`
//! wants it. Knows no particular metric.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A text form of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Prometheus,
}

impl Exposition {
    /// The form an `Accept` header prefers. Without a preference: Prometheus text, which everything reads.
    pub fn accepted(accept: &str) -> Self {
        let (mut open, mut plain) = (0, 0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut weight, mut known) = (1000, true);
            for part in parts {
                match part.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
                    Some(("q", value)) => weight = thousandths(value),
                    Some(("version", value)) if kind.starts_with("application/") => {
                        known = value == "1.0.0" || value == "0.0.1";
                    }
                    _ => {}
                }
            }
            match kind.as_str() {
                "application/openmetrics-text" if known => open = open.max(weight),
                "text/plain" | "text/*" | "*/*" => plain = plain.max(weight),
                _ => {}
            }
        }
        if open > 0 && open >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// `OpenMetrics` text in this form.
    pub fn write(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Prometheus => prometheus(&open_metrics),
        }
    }
}

/// A quality in thousandths; what is none counts as 0.
fn thousandths(text: &str) -> u32 {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = part.chars().chain("000".chars()).take(3).collect();
    match (whole.parse::<u32>(), digits.parse::<u32>()) {
        (Ok(whole), Ok(part)) => (whole * 1000 + part).min(1000),
        _ => 0,
    }
}

/// In the older form a counter's HELP and TYPE name its samples, `_total` included; units and the end have no line. Our
/// programs write no exemplars, which would have no place.
fn prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help: BTreeMap<&str, &str> = BTreeMap::new();
    for line in open_metrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            let (name, words) = described.split_once(' ').unwrap_or((described, ""));
            help.insert(name, words);
        } else if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap_or((described, "unknown"));
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            let kind = match kind {
                "info" | "stateset" => "gauge",
                "unknown" => "untyped",
                other => other,
            };
            if let Some(words) = help.remove(name) {
                let words = words.replace("\\\"", "\"");
                writeln!(text, "# HELP {name}{suffix} {words}").expect("writing to a string succeeds");
            }
            writeln!(text, "# TYPE {name}{suffix} {kind}").expect("writing to a string succeeds");
        } else if !line.starts_with('#') && !line.is_empty() {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// What `promtool check metrics` objects to in Prometheus text, as one sentence each. For tests.
pub fn defects(prometheus_text: &str) -> Vec<String> {
    let mut defects = Vec::new();
    let (mut kinds, mut helped) = (BTreeMap::new(), Vec::new());
    for line in prometheus_text.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            helped.push(described.split(' ').next().unwrap_or_default());
        } else if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap_or((described, ""));
            if kinds.insert(name, kind).is_some() {
                defects.push(format!("{name} is declared twice"));
            }
        } else if line.starts_with('#') {
            defects.push(format!("the line `{line}` has no meaning in this form"));
        } else {
            defects.extend(defects_of_sample(line, &kinds, &helped));
        }
    }
    defects.sort();
    defects.dedup();
    defects
}

fn defects_of_sample(line: &str, kinds: &BTreeMap<&str, &str>, helped: &[&str]) -> Vec<String> {
    let sample = line.split(['{', ' ']).next().unwrap_or_default();
    let suffixes = ["", "_bucket", "_sum", "_count"];
    let mut family = suffixes.iter().filter_map(|suffix| sample.strip_suffix(suffix));
    let Some((name, kind)) = family.find_map(|name| kinds.get_key_value(name)) else {
        return vec![format!("{sample} has no TYPE")];
    };
    let mut defects = Vec::new();
    if !helped.contains(name) {
        defects.push(format!("{name} has no HELP"));
    }
    if (*kind == "counter") != name.ends_with("_total") && *kind != "untyped" {
        defects.push(format!("{name} is a {kind}: counters, and only they, end in `_total`"));
    }
    let words = || name.split('_');
    if name.chars().any(|c| c.is_ascii_uppercase() || c == ':') {
        defects.push(format!("{name} has a letter that metrics of programs do not have"));
    }
    for word in ["counter", "gauge", "histogram", "summary"] {
        if words().any(|found| found == word) {
            defects.push(format!("{name} names its type"));
        }
    }
    for word in
        ["ms", "milliseconds", "us", "microseconds", "minutes", "hours", "days", "kb", "kilobytes", "percent"]
    {
        if words().any(|found| found == word) {
            defects.push(format!("{name} is not in base units"));
        }
    }
    defects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_the_one_a_scraper_prefers() {
        let prometheus_2 = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let prometheus_3 = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, expect) in [
            (prometheus_2, Exposition::OpenMetrics),
            (prometheus_3, Exposition::OpenMetrics),
            ("application/openmetrics-text", Exposition::OpenMetrics),
            ("text/plain;q=0.9, application/openmetrics-text;q=0.1", Exposition::Prometheus),
            ("application/openmetrics-text;q=0", Exposition::Prometheus),
            ("application/openmetrics-text; version=2.0.0", Exposition::Prometheus),
            ("*/*", Exposition::Prometheus),
            ("text/html", Exposition::Prometheus),
            ("", Exposition::Prometheus),
        ] {
            assert_eq!(Exposition::accepted(accept), expect, "{accept}");
        }
    }

    const OPEN: &str = "# HELP a_calls Calls with \\\"quotes\\\".\n# TYPE a_calls counter\n# UNIT a_calls calls\na_calls_total{x=\"1 # {y\"} 3\n# HELP a_open Open.\n# TYPE a_open gauge\na_open 1\n# EOF\n";

    #[test]
    fn counters_are_declared_by_the_name_of_their_samples() {
        let text = Exposition::Prometheus.write(OPEN.to_owned());
        assert_eq!(
            text,
            "# HELP a_calls_total Calls with \"quotes\".\n# TYPE a_calls_total counter\na_calls_total{x=\"1 # {y\"} 3\n# HELP a_open Open.\n# TYPE a_open gauge\na_open 1\n"
        );
        assert_eq!(defects(&text), Vec::<String>::new());
        assert_eq!(Exposition::OpenMetrics.write(OPEN.to_owned()), OPEN);
    }

    #[test]
    fn what_promtool_objects_to_is_found() {
        for (text, expect) in [
            ("# TYPE a counter\na 1\n", 2),
            ("a 1\n", 1),
            ("# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n", 1),
            ("# HELP a_ms A.\n# TYPE a_ms gauge\na_ms 1\n", 1),
            ("# HELP a A.\n# TYPE a gauge\na 1\n# EOF\n", 1),
            (
                "# HELP a_seconds A.\n# TYPE a_seconds histogram\na_seconds_bucket{le=\"1\"} 1\na_seconds_sum 1\na_seconds_count 1\n",
                0,
            ),
        ] {
            assert_eq!(defects(text).len(), expect, "{text}: {:?}", defects(text));
        }
    }
}
