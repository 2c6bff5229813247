//! The table of a run, and its plot as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::row::Row;

/// Characters of the longest bar.
const BAR: f64 = 50.0;

/// The whole file.
pub(super) fn text(rows: &[Row], beside: u32, machine: &BTreeMap<&'static str, String>) -> String {
    let mut text = String::from("# Scale: what so many endpoints cost, and how soon a change is live\n\n");
    let fact = |name| machine.get(name).map_or("unknown", String::as_str);
    let facts =
        ["date", "commit", "kernel", "processors", "load"].map(|name| format!("{name} {}", fact(name)));
    let _ = writeln!(text, "{}\n", facts.join(", "));
    let _ = writeln!(
        text,
        "| endpoints | control starts | its memory | edge syncs | edge starts | its memory | an endpoint | live p50 | live p99 | CPU a change: control | edge | look-up p50 | p99 |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    );
    let empty_kb = rows.first().filter(|row| row.endpoints == 0).map_or(0, |row| row.edge_kb);
    for row in rows {
        let (p50, p99) = row.live.map_or((0.0, 0.0), |live| (live.p50_us / 1e3, live.p99_us / 1e3));
        let _ = writeln!(
            text,
            "| {} | {:.1} s | {} MB | {:.1} s | {:.1} s | {} MB | {} | {p50:.1} ms | {p99:.1} ms | {:.2} ms | {:.2} ms | {} ns | {} ns |",
            row.endpoints,
            seconds(row.control_start_ms),
            row.control_kb / 1000,
            seconds(row.sync_ms),
            seconds(row.edge_start_ms),
            row.edge_kb / 1000,
            per_endpoint(row, empty_kb),
            row.cpu.control_ms,
            row.cpu.edge_ms,
            row.lookup.0,
            row.lookup.1,
        );
    }
    let _ = writeln!(
        text,
        "\nLive: from the answer of `POST /endpoints` to the first answer of the new endpoint on a connection of its own, with \
         {beside} other changes a second. Memory is resident, after the start. *Edge syncs*: from the start of an edge with an empty \
         directory to its readiness; *starts*: with everything on disk. Endpoints have {} policies together.\n",
        10
    );
    text.push_str(&plot(rows));
    text
}

/// Bars of the 99th percentile, all on one scale.
fn plot(rows: &[Row]) -> String {
    let p99 = |row: &Row| row.live.map_or(0.0, |live| live.p99_us / 1e3);
    let most = rows.iter().map(p99).fold(f64::EPSILON, f64::max);
    let mut text = String::from("```\nlive p99\n");
    for row in rows {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most BAR")]
        let bar = "#".repeat((p99(row) / most * BAR).ceil() as usize);
        let _ = writeln!(text, "{:>9} {bar} {:.1} ms", row.endpoints, p99(row));
    }
    text + "```\n"
}

fn per_endpoint(row: &Row, empty_kb: u64) -> String {
    let more = row.edge_kb.saturating_sub(empty_kb) * 1024;
    let endpoints = u64::try_from(row.endpoints).unwrap_or(u64::MAX);
    more.checked_div(endpoints).map_or_else(|| "-".to_owned(), |bytes| format!("{bytes} B"))
}

fn seconds(ms: u128) -> f64 {
    std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX)).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Latency;
    use crate::scale::row::Cpu;

    #[test]
    fn a_row_a_size_and_a_bar_a_row() {
        let row = |endpoints, edge_kb, p99_us| Row {
            endpoints,
            control_start_ms: 1_250,
            control_kb: 50_000,
            sync_ms: 900,
            edge_start_ms: 300,
            edge_kb,
            live: Some(Latency { p50_us: 5_000.0, p99_us }),
            cpu: Cpu { control_ms: 1.5, edge_ms: 0.25 },
            lookup: (200, 700),
        };
        let text = text(&[row(0, 20_000, 10_000.0), row(1_000, 21_000, 20_000.0)], 20, &BTreeMap::new());
        assert!(
            text.contains("| 0 | 1.2 s | 50 MB | 0.9 s | 0.3 s | 20 MB | - | 5.0 ms | 10.0 ms |"),
            "{text}"
        );
        assert!(text.contains("| 21 MB | 1024 B |") && text.contains("| 200 ns | 700 ns |"), "{text}");
        assert!(text.contains(&format!("     1000 {} 20.0 ms", "#".repeat(50))), "{text}");
    }
}
