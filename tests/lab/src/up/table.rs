//! What `up` prints: where things are, and lines to paste.

use std::path::Path;

use anyhow::Result;

use crate::lab::{Lab, local};
use crate::workspace::shown;

/// The report of `up --bare` without `--json`.
pub(super) fn bare(lab: &Lab, events: &Path) -> Result<String> {
    Ok(format!("Ebbgate is up.\n\n{}\nCtrl-C stops it.", addresses(lab, events)?))
}

/// Addresses and files of control and edge.
pub(super) fn addresses(lab: &Lab, events: &Path) -> Result<String> {
    let ports = lab.ports();
    let rows = [
        ("API", format!("http://{}   key: {}", local(ports.api()), lab.api_key()?)),
        ("visitors, https and tls", local(ports.https()).to_string()),
        ("visitors, http", local(ports.http()).to_string()),
        ("agents", local(ports.connect()).to_string()),
        ("visitors trust", shown(&lab.ingress_ca())),
        ("agents trust", shown(&lab.connect_ca())),
        ("control: metrics, health", format!("http://{}/metrics", local(ports.control_admin()))),
        ("edge: metrics, health", format!("http://{}/metrics", local(ports.edge_admin()))),
        ("logs", shown(&lab.log_dir())),
        ("recorded traffic", shown(events)),
    ];
    Ok(rows.map(|(what, is)| format!("  {what:<25} {is}\n")).concat())
}
