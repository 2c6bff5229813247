//! The CPU figures of a run as one picture: a panel for each table and load, a bar for each chain and number of connections,
//! its range as a line. Plain SVG, written here.

use std::fmt::Write as _;

use super::cell::{DIRECT, Report, Row};
use super::load::{Kind, Table};

/// Sizes in pixels.
const PANEL_WIDTH: f64 = 520.0;
const LABEL_WIDTH: f64 = 140.0;
const VALUE_WIDTH: f64 = 70.0;
const BAR_HEIGHT: f64 = 8.0;
const CHAIN_GAP: f64 = 7.0;
const HEAD_HEIGHT: f64 = 34.0;
/// Bars of few connections are light, of many dark.
const SHADES: [[&str; 3]; 2] = [["#c3ccd6", "#8d9bab", "#5b6a7b"], ["#9fd3c7", "#4aa795", "#1d7163"]];

/// The picture.
pub(super) fn svg(report: &Report) -> String {
    let (mut body, mut top) = (String::new(), 30.0);
    for table in Table::ALL {
        let mut tallest: f64 = 0.0;
        for (column, kind) in (0_u8..).zip(Kind::IN_ROUNDS) {
            let left = f64::from(column) * PANEL_WIDTH;
            tallest = tallest.max(panel(&mut body, report, (table, kind), left, top));
        }
        top += tallest;
    }
    let machine = |name: &str| report.machine.get(name).cloned().unwrap_or_default();
    let (width, height) = (3.0 * PANEL_WIDTH, top + 10.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"18\" font-size=\"13\">CPU of each chain's processes, less is better; light to dark: 1, 16, 256 connections; \
         median, line from least to most. {date}, kernel {kernel}, commit {commit}</text>\n{body}</svg>\n",
        date = machine("date"),
        kernel = escaped(&machine("kernel")),
        commit = escaped(&machine("commit")),
    )
}

/// Draws one panel and says how tall it is.
fn panel(out: &mut String, report: &Report, (table, kind): (Table, Kind), left: f64, top: f64) -> f64 {
    let is_here = |row: &&Row| (row.load.table, row.load.kind) == (table, kind) && row.chain != DIRECT;
    let rows: Vec<&Row> = report.summary.iter().filter(is_here).collect();
    let most = rows.iter().filter_map(|row| row.cpu).map(|cpu| cpu.max).fold(0.0, f64::max);
    if rows.is_empty() || most <= 0.0 {
        return 0.0;
    }
    let scale = (PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH) / most;
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "<text x=\"{:.0}\" y=\"{:.0}\" font-weight=\"bold\">{}: {}, {}</text>",
        left + 8.0,
        top + 20.0,
        format!("{table:?}").to_lowercase(),
        kind.title(),
        if kind == Kind::Bulk { "s/GB" } else { "us each" }
    );
    let mut chains: Vec<&str> = Vec::new();
    for row in &rows {
        if !chains.contains(&row.chain.as_str()) {
            chains.push(&row.chain);
        }
    }
    chains.sort_unstable();
    let mut y = top + HEAD_HEIGHT;
    for chain in chains {
        let bars: Vec<&&Row> = rows.iter().filter(|row| row.chain == chain).collect();
        let _ = writeln!(
            out,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>",
            left + LABEL_WIDTH - 6.0,
            y + BAR_HEIGHT * 1.8,
            escaped(chain)
        );
        for (bar, row) in bars.into_iter().enumerate() {
            draw(out, row, bar, left + LABEL_WIDTH, y, scale);
            y += BAR_HEIGHT;
        }
        y += CHAIN_GAP;
    }
    y - top
}

fn draw(out: &mut String, row: &Row, bar: usize, x: f64, y: f64, scale: f64) {
    let Some(cpu) = row.cpu else { return };
    let [theirs, ours] = SHADES;
    let shades = if row.chain.starts_with("ebbgate") { ours } else { theirs };
    let shade = shades.get(bar).copied().unwrap_or("#333333");
    let (middle, height) = (y + BAR_HEIGHT / 2.0, BAR_HEIGHT - 1.0);
    let digits = if row.load.kind == Kind::Bulk { 3 } else { 0 };
    let (from, to) = (x + cpu.min * scale, x + cpu.max * scale);
    let _ = writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{shade}\"/>\
         <line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" stroke=\"#b03a2e\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"8\">{:.digits$}</text>",
        cpu.median * scale,
        to + 4.0,
        y + BAR_HEIGHT - 1.0,
        cpu.median
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::cell::Cell;
    use super::super::load::load;
    use super::*;

    #[test]
    fn every_chain_has_its_bar_and_no_name_breaks_the_picture() {
        let mut report = Report::empty();
        report.cells = ["ebbgate link", "haproxy > rathole"]
            .map(|chain| Cell {
                round: 1,
                load: load(Table::Https, Kind::Requests, 16),
                chain: chain.to_owned(),
                seconds: 1.0,
                count: 10,
                bytes: 10,
                cpu_seconds: BTreeMap::from([("edge".to_owned(), 0.5)]),
                latency: None,
                load_average: 0.0,
            })
            .into();
        report.sum_up();
        let picture = svg(&report);
        assert_eq!(picture.matches("<line").count(), 2);
        assert!(picture.contains("haproxy &gt; rathole") && !picture.contains("> rathole"), "{picture}");
    }
}
