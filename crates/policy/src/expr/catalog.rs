//! The page of variables, `docs/variables.md`: which published ones have values here, and why others have none.

use std::fmt::Write as _;

use super::names::{self, VARIABLES};
use super::{addresses, unavailable};

/// What the page says of variables that come with a body's end.
const LATE: &str = "`req.trailers`, `req.ts.body_received` and `res.trailers` come with the end of a body, and no body is held for them. Until then the maps
and the text are empty, and `has()` of them is false. A request's are there in every phase once all of its body has come: at once if it
has none, behind an action that reads all of it (verify-webhook, jwt-validation with `method: body`), and in `on_http_response` when the
upstream answered after it had read all. A response's are there if it has no body, or when `owasp-crs-response` with `process_body`
has read all of it. A `log` action that names one of the three is not behind any of this: its entry is written when the exchange is
over (at most 8 such entries a policy; with `failed` and the reason where it cannot be made).

";

/// The page as Markdown.
pub(crate) fn page() -> String {
    let mut rows: Vec<_> = VARIABLES.iter().map(|variable| (variable.path, variable.kind)).collect();
    rows.sort_unstable_by_key(|(path, _)| *path);
    let (own, published): (Vec<_>, Vec<_>) =
        rows.iter().partition(|(path, _)| names::is_of_members(path) || names::is_of_event(path));
    let gaps: Vec<_> = unavailable::all().collect();
    let filled = published.iter().filter(|(path, _)| addresses::looked_up(path).is_some()).count();
    let mut out = String::from(
        "# Variables of expressions\n\nThis page is written by a test from the tables that judge and read them (`crates/policy/src/expr/catalog.rs`).\n\n",
    );
    let _ = writeln!(
        out,
        "Of {} published variables {} have values here, {filled} of them where an edge has a [database of addresses](geo.md); {} are refused when a policy is saved.\nMembers of lists (cookies, certificates' extensions), `vars` and `actions.ngrok` are made at run time and not counted.\n",
        published.len() + gaps.len(),
        published.len(),
        gaps.len(),
    );
    out.push_str(LATE);
    out.push_str("| refused | because it | instead |\n|---|---|---|\n");
    for (path, reason, way_out) in gaps {
        let _ = writeln!(out, "| `{path}` | {reason} | {way_out} |");
    }
    out.push_str("\n| ours | is | where |\n|---|---|---|\n");
    for (path, kind) in own {
        let kind = kind.map_or("any value", |kind| kind.noun());
        let place = if names::is_of_event(path) {
            "`on_event_stream_message`, of each event"
        } else {
            "`endpoint_selectors` and `endpoint_weights` of forward-internal"
        };
        let _ = writeln!(out, "| `{path}` | {kind} | {place} |");
    }
    out.push_str("\n| variable | is | from a database |\n|---|---|---|\n");
    for (path, kind) in published {
        let kind = kind.map_or("any value", |kind| kind.noun());
        let from = if addresses::looked_up(path).is_some() { "yes" } else { "" };
        let _ = writeln!(out, "| `{path}` | {kind} | {from} |");
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test is told by its environment to write the page")]
    fn the_page_is_what_the_tables_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/variables.md");
        if std::env::var_os("EBBGATE_BLESS").is_some() {
            std::fs::write(path, super::page()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == super::page(),
            "docs/variables.md is not current: run this test with EBBGATE_BLESS=1"
        );
    }
}
