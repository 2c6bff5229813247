//! `ebbgate policy explain --operation`: a document over the event of one real connection or request.

use std::path::Path;

use ebbgate_policy::diff::{explain_record, operation_of, url_of};

use super::super::env::Failure;
use super::diff::{line, records};
use super::document::{EndpointArguments, compile, placeholders};

/// Finds the event of an operation and prints what the document does with it, and why.
pub(super) fn explain(
    file: &Path,
    endpoint: &EndpointArguments,
    operation: &str,
    against: &Path,
    json: bool,
) -> Result<(), Failure> {
    let record = find(operation, against)?;
    let refused =
        |message: &dyn std::fmt::Display| Failure::new(format!("the event of {operation}: {message}"));
    let asked = url_of(&record).ok_or_else(|| refused(&"it does not tell what was asked for; give --url"));
    let url = endpoint.url.clone().map_or(asked, Ok)?;
    let endpoint = EndpointArguments { url: Some(url.clone()), owner: endpoint.owner };
    let (policy, engine) = compile(file, &endpoint, placeholders)?;
    let owner = endpoint.check_context().owner;
    let explained =
        explain_record(&engine, &policy, (&url, owner), &record).map_err(|error| refused(&error))?;
    let explained = explained
        .ok_or_else(|| refused(&format_args!("it is not of {url}; name the endpoint with --url")))?;
    if json {
        println!("{:#}", explained.json());
    } else {
        print!("{}", explained.text());
    }
    Ok(())
}

fn find(operation: &str, against: &Path) -> Result<String, Failure> {
    let mut records = records(against)?;
    while let Some(line) = line(&mut records, against)? {
        if line.contains(operation) && operation_of(&line).as_deref() == Some(operation) {
            return Ok(line);
        }
    }
    Err(Failure::new(format!("{} has no event of the operation {operation}", against.display())))
}
