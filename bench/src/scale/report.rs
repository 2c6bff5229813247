//! The table of a run, and its plot as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::row::Row;

/// Characters of the longest bar.
const BAR: f64 = 50.0;

/// Most milliseconds from an answer to being live, in the 99th percentile.
const LIVE_MS_MAX: f64 = 50.0;
/// How many times the processor time of a change without endpoints one with all of them takes at most.
const CPU_TIMES_MAX: f64 = 1.2;
/// Most seconds until control answers.
const CONTROL_SECS_MAX: f64 = 5.0;
/// Most megabytes that control holds.
const CONTROL_MB_MAX: u64 = 1_000;
/// Most seconds until an edge serves what it has on disk.
const EDGE_SECS_MAX: f64 = 3.0;
/// Most bytes of an edge for an endpoint.
const ENDPOINT_BYTES_MAX: u64 = 1_024;
/// Most nanoseconds of a look-up, in the 99th percentile.
const LOOKUP_NS_MAX: u64 = 1_000;

/// The whole file.
pub(super) fn text(rows: &[Row], beside: u32, machine: &BTreeMap<&'static str, String>) -> String {
    let mut text = String::from("# Scale: what so many endpoints cost, and how soon a change is live\n\n");
    let fact = |name| machine.get(name).map_or("unknown", String::as_str);
    let facts =
        ["date", "commit", "kernel", "processors", "load"].map(|name| format!("{name} {}", fact(name)));
    let _ = writeln!(text, "{}\n", facts.join(", "));
    let _ = writeln!(
        text,
        "| endpoints | control answers | has planned | its memory | edge syncs | edge starts | its memory | an endpoint | live p50 | live p99 | CPU a change: control | edge | look-up p50 | p99 |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    );
    let empty_kb = empty_kb(rows);
    for row in rows {
        let (p50, p99) = row.live.map_or((0.0, 0.0), |live| (live.p50_us / 1e3, live.p99_us / 1e3));
        let bytes = per_endpoint(row, empty_kb).map_or_else(|| "-".to_owned(), |bytes| format!("{bytes} B"));
        let _ = writeln!(
            text,
            "| {} | {:.1} s | {:.1} s | {} MB | {:.1} s | {:.1} s | {} MB | {bytes} | {p50:.1} ms | {p99:.1} ms | {:.2} ms | {:.2} ms | {} ns | {} ns |",
            row.endpoints,
            seconds(row.control_start_ms),
            seconds(row.control_planned_ms),
            megabytes(row.control_kb),
            seconds(row.sync_ms),
            seconds(row.edge_start_ms),
            megabytes(row.edge_kb),
            row.cpu.control_ms,
            row.cpu.edge_ms,
            row.lookup.0,
            row.lookup.1,
        );
    }
    let _ = writeln!(
        text,
        "\nLive: from the answer of `POST /endpoints` to the first answer of the new endpoint on a connection of its own, with \
         {beside} other changes a second. Memory is resident, when the start has left nothing to do. *Answers*: the API does; \
         *has planned*: edges get all of it. *Edge syncs*: from the start of an edge with an empty directory until it serves \
         everything; *starts*: the same with everything on disk. A look-up is one of 200,000 names in no order. Endpoints have \
         {} policies together.\n",
        10
    );
    text.push_str(&goals(rows));
    text.push_str(&plot("live p99", rows, |row| row.live.map_or(0.0, |live| live.p99_us / 1e3)));
    text.push_str(&plot("CPU a change", rows, cpu_ms));
    text
}

/// What was wanted of the largest number of endpoints, and what became of it.
fn goals(rows: &[Row]) -> String {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return String::new() };
    let live = rows.iter().filter_map(|row| row.live).map(|live| live.p99_us / 1e3).fold(0.0, f64::max);
    let times = cpu_ms(last) / cpu_ms(first).max(f64::EPSILON);
    let (start, edge) = (seconds(last.control_start_ms), seconds(last.edge_start_ms));
    let bytes = per_endpoint(last, empty_kb(rows)).unwrap_or_default();
    let memory = megabytes(last.control_kb);
    let lines = [
        ("live p99 at every size", format!("{LIVE_MS_MAX} ms"), format!("{live:.1} ms"), live <= LIVE_MS_MAX),
        (
            "CPU of a change, of the one without endpoints",
            format!("{CPU_TIMES_MAX} times"),
            format!("{times:.2} times"),
            times <= CPU_TIMES_MAX,
        ),
        (
            "control answers",
            format!("{CONTROL_SECS_MAX} s"),
            format!("{start:.1} s"),
            start <= CONTROL_SECS_MAX,
        ),
        (
            "memory of control",
            format!("{CONTROL_MB_MAX} MB"),
            format!("{memory} MB"),
            memory <= CONTROL_MB_MAX,
        ),
        ("an edge starts", format!("{EDGE_SECS_MAX} s"), format!("{edge:.1} s"), edge <= EDGE_SECS_MAX),
        (
            "memory of an edge, an endpoint",
            format!("{ENDPOINT_BYTES_MAX} B"),
            format!("{bytes} B"),
            bytes <= ENDPOINT_BYTES_MAX,
        ),
        (
            "look-up p99",
            format!("{LOOKUP_NS_MAX} ns"),
            format!("{} ns", last.lookup.1),
            last.lookup.1 <= LOOKUP_NS_MAX,
        ),
    ];
    let mut text =
        format!("| goal with {} endpoints | at most | measured | |\n|---|---:|---:|---|\n", last.endpoints);
    for (what, most, measured, is_met) in lines {
        let _ = writeln!(
            text,
            "| {what} | {most} | {measured} | {} |",
            if is_met { "met" } else { "**missed**" }
        );
    }
    text + "\n"
}

fn cpu_ms(row: &Row) -> f64 {
    row.cpu.control_ms + row.cpu.edge_ms
}

/// Bars of milliseconds, all on one scale.
fn plot(name: &str, rows: &[Row], ms: impl Fn(&Row) -> f64) -> String {
    let most = rows.iter().map(&ms).fold(f64::EPSILON, f64::max);
    let mut text = format!("```\n{name}\n");
    for row in rows {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most BAR")]
        let bar = "#".repeat((ms(row) / most * BAR).ceil() as usize);
        let _ = writeln!(text, "{:>9} {bar} {:.1} ms", row.endpoints, ms(row));
    }
    text + "```\n"
}

/// Kilobytes of an edge that holds nothing.
fn empty_kb(rows: &[Row]) -> u64 {
    rows.first().filter(|row| row.endpoints == 0).map_or(0, |row| row.edge_kb)
}

fn per_endpoint(row: &Row, empty_kb: u64) -> Option<u64> {
    let more = row.edge_kb.saturating_sub(empty_kb) * 1024;
    more.checked_div(u64::try_from(row.endpoints).ok()?)
}

fn megabytes(kb: u64) -> u64 {
    kb * 1024 / 1_000_000
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
            control_planned_ms: 2_500,
            control_kb: 50_000,
            sync_ms: 900,
            edge_start_ms: 300,
            edge_kb,
            live: Some(Latency { p50_us: 5_000.0, p99_us }),
            cpu: Cpu { control_ms: 1.5, edge_ms: 0.25 },
            lookup: (200, 700),
        };
        let text = text(&[row(0, 20_000, 10_000.0), row(1_000, 21_000, 60_000.0)], 20, &BTreeMap::new());
        assert!(
            text.contains("| 0 | 1.2 s | 2.5 s | 51 MB | 0.9 s | 0.3 s | 20 MB | - | 5.0 ms | 10.0 ms |"),
            "{text}"
        );
        assert!(text.contains("| 21 MB | 1024 B |") && text.contains("| 200 ns | 700 ns |"), "{text}");
        assert!(text.contains(&format!("     1000 {} 60.0 ms", "#".repeat(50))), "{text}");
        assert!(text.contains("| live p99 at every size | 50 ms | 60.0 ms | **missed** |"), "{text}");
        assert!(
            text.contains("| CPU of a change, of the one without endpoints | 1.2 times | 1.00 times | met |")
        );
        assert!(text.contains("| memory of an edge, an endpoint | 1024 B | 1024 B | met |"), "{text}");
    }
}
