//! `ebbgate policy diff`: two documents over a file of traffic events.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use ebbgate_policy::diff::{Change, Comparison, RECORD_BYTES_MAX, Side};

use super::super::env::Failure;
use super::document::{EndpointArguments, compile, placeholders};

/// Prints what changes; fails if anything does.
pub(super) fn diff(
    (old, new): (&Path, &Path),
    against: &Path,
    endpoint: &EndpointArguments,
    json: bool,
    deny_unknown: bool,
) -> Result<(), Failure> {
    let (old_policy, old_engine) = compile(old, endpoint, placeholders)?;
    let (new_policy, new_engine) = compile(new, endpoint, placeholders)?;
    let mut comparison = Comparison::new(
        &endpoint.url(),
        endpoint.check_context().owner,
        Side { policy: &old_policy, engine: &old_engine },
        Side { policy: &new_policy, engine: &new_engine },
    );
    let mut records = records(against)?;
    for number in 1_u64.. {
        let Some(line) = line(&mut records, against)? else { break };
        if line.trim().is_empty() {
            continue;
        }
        comparison
            .add(&line)
            .map_err(|error| Failure::new(format!("{}: line {number}: {error}", against.display())))?;
    }
    if json {
        println!("{:#}", comparison.json());
    } else {
        print!("{}", comparison.text());
    }
    let (changed, unknown) = (comparison.count(Change::Changed), comparison.count(Change::Unknown));
    match (comparison.compared(), changed, unknown) {
        (0, ..) => {
            Err(Failure::new(format!("no event is of {}: name the endpoint with --url", endpoint.url())))
        }
        (all, changed, _) if changed > 0 => {
            Err(Failure::new(format!("{changed} of {all} would come out otherwise")))
        }
        (all, _, unknown) if deny_unknown && unknown > 0 => {
            Err(Failure::new(format!("{unknown} of {all} cannot be told")))
        }
        _ => Ok(()),
    }
}

/// A file of events, or standard input.
pub(super) fn records(against: &Path) -> Result<Box<dyn BufRead>, Failure> {
    if against == Path::new("-") {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let file = File::open(against).map_err(|error| failed(against, &error))?;
    Ok(Box::new(BufReader::new(file)))
}

/// The next line; one that is too long is cut behind its longest, and refused as a record.
pub(super) fn line(records: &mut dyn BufRead, against: &Path) -> Result<Option<String>, Failure> {
    let mut bytes = Vec::new();
    let bytes_max = u64::try_from(RECORD_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(2);
    let read = records.take(bytes_max).read_until(b'\n', &mut bytes);
    read.map_err(|error| failed(against, &error))?;
    Ok((!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned()))
}

fn failed(against: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot read {}: {error}", against.display()))
}
