//! `ebbgate policy`: what a traffic policy means, without an edge: check and format a document, explain
//! a case, run a file of cases.
//!
//! Judges by the crate that control and edges use. Objects of an account, such as `ipp_` ids, come from the case file.

mod cases;
mod diff;
mod document;
mod fmt;
mod junit;
mod recorded;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use ebbgate_policy::reference;

use self::cases::CaseFile;
use self::document::{EndpointArguments, compile, judge, placeholders, read};
use super::env::Failure;

#[derive(Subcommand)]
pub(super) enum PolicyVerb {
    /// Judge a document as saving it would; all errors at once.
    Check {
        /// The document, YAML or JSON; `-` reads standard input.
        file: PathBuf,
        #[command(flatten)]
        endpoint: EndpointArguments,
        /// Exit with code 1 on warnings too.
        #[arg(long)]
        deny_warnings: bool,
    },
    /// Write a document in the one way: order of keys, indentation, quotes. Comments stay.
    Fmt {
        /// The document, YAML or JSON; `-` reads standard input.
        file: PathBuf,
        /// Write nothing; exit with code 1 if the file is written otherwise.
        #[arg(long, conflicts_with = "write")]
        check: bool,
        /// Write the file itself.
        #[arg(long)]
        write: bool,
    },
    /// Say what a document does with one connection or request, and why.
    Explain {
        /// The document, YAML or JSON; `-` reads standard input.
        file: PathBuf,
        #[command(flatten)]
        endpoint: EndpointArguments,
        /// A real connection or request instead of a case: the id of its operation; `--against` has its event. `--url` names the
        /// endpoint where it is not the URL that the visitor asked for.
        #[arg(long, value_name = "ID", requires = "against", conflicts_with_all = ["request", "method", "path", "headers", "body", "client_ip"])]
        operation: Option<String>,
        /// Traffic events, one JSON object a line; `-` reads standard input.
        #[arg(long, value_name = "FILE", requires = "operation")]
        against: Option<PathBuf>,
        /// The case as a YAML file; the flags below change it.
        #[arg(long, value_name = "FILE")]
        request: Option<PathBuf>,
        /// Method.
        #[arg(long)]
        method: Option<String>,
        /// Path with query.
        #[arg(long)]
        path: Option<String>,
        /// Header, such as `x-site: north`; repeat it for several.
        #[arg(long = "header", value_name = "NAME: VALUE")]
        headers: Vec<String>,
        /// Body of the request.
        #[arg(long)]
        body: Option<String>,
        /// Address of the client.
        #[arg(long, value_name = "IP")]
        client_ip: Option<std::net::IpAddr>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print what an action does, its fields with defaults and limits, its codes and an example; without a name, all names.
    Describe {
        /// Such as `rate-limit`.
        action: Option<String>,
    },
    /// Say what a new document would do otherwise with recorded traffic; exit code 1 if anything changes.
    Diff {
        /// The document in force, YAML or JSON.
        old: PathBuf,
        /// The new one.
        new: PathBuf,
        /// Traffic events, one JSON object a line, as an event destination's file has them; `-` reads standard input.
        #[arg(long, value_name = "FILE")]
        against: PathBuf,
        #[command(flatten)]
        endpoint: EndpointArguments,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Exit with code 1 too where it cannot be told.
        #[arg(long)]
        deny_unknown: bool,
    },
    /// Run files of cases; exit code 1 if one does not come out as expected.
    Test {
        /// Case files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Write the results as `JUnit` XML.
        #[arg(long, value_name = "FILE")]
        junit: Option<PathBuf>,
        /// Run only cases whose name contains this.
        #[arg(long, value_name = "TEXT")]
        filter: Option<String>,
    },
}

pub(super) fn run(verb: &PolicyVerb) -> Result<(), Failure> {
    match verb {
        PolicyVerb::Check { file, endpoint, deny_warnings } => check(file, endpoint, *deny_warnings),
        PolicyVerb::Fmt { file, check, write } => fmt::fmt(file, *check, *write),
        PolicyVerb::Explain {
            file,
            endpoint,
            operation: Some(operation),
            against: Some(against),
            json,
            ..
        } => recorded::explain(file, endpoint, operation, against, *json),
        PolicyVerb::Explain {
            file, endpoint, request, method, path, headers, body, client_ip, json, ..
        } => {
            let mut text = match request {
                Some(request) => cases::read_case(request)?,
                None => cases::default_case(),
            };
            if let Some(method) = method {
                text.method = Some(method.clone());
            }
            if let Some(path) = path {
                text.path = Some(path.clone());
            }
            if let Some(body) = body {
                text.body.clone_from(body);
            }
            if client_ip.is_some() {
                text.client_ip = *client_ip;
            }
            cases::add_headers(&mut text, headers)?;
            let (policy, engine) = compile(file, endpoint, placeholders)?;
            let case = text.read(&endpoint.url()).map_err(Failure::new)?;
            let explanation = ebbgate_policy::explain::explain(&engine, &case);
            if *json {
                println!("{:#}", explanation.json(&policy));
            } else {
                print!("{}", explanation.text(&policy));
            }
            Ok(())
        }
        PolicyVerb::Diff { old, new, against, endpoint, json, deny_unknown } => {
            diff::diff((old, new), against, endpoint, *json, *deny_unknown)
        }
        PolicyVerb::Describe { action } => describe(action.as_deref()),
        PolicyVerb::Test { files, junit, filter } => test(files, junit.as_deref(), filter.as_deref()),
    }
}

fn describe(action: Option<&str>) -> Result<(), Failure> {
    let Some(action) = action else {
        reference::names().for_each(|name| println!("{name}"));
        return Ok(());
    };
    let Some(text) = reference::of(action) else {
        let near = ebbgate_policy::text::nearest(action, reference::names());
        let hint = near.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
        return Err(Failure::new(format!("there is no action `{action}`{hint}")));
    };
    print!("{text}");
    Ok(())
}

fn check(file: &Path, endpoint: &EndpointArguments, deny_warnings: bool) -> Result<(), Failure> {
    let text = read(file)?;
    let mut warnings = judge(file, &text, endpoint)?.warnings;
    warnings.extend(ebbgate_policy::lint::lint(&text, &endpoint.check_context()));
    for warning in &warnings {
        eprintln!("WARNING:  {}: {warning}", file.display());
    }
    if deny_warnings && !warnings.is_empty() {
        return Err(Failure::new(format!("{} warnings", warnings.len())));
    }
    println!("{} is a valid traffic policy for {}", file.display(), endpoint.url());
    Ok(())
}

fn test(files: &[PathBuf], junit: Option<&Path>, filter: Option<&str>) -> Result<(), Failure> {
    let mut suites = Vec::new();
    for file in files {
        let results = CaseFile::read(file)?.run(filter)?;
        for result in &results {
            match &result.failure {
                None => println!("ok    {}", result.name),
                Some(failure) => print!("FAIL  {}\n{}", result.name, indented(failure)),
            }
        }
        suites.push((file.display().to_string(), results));
    }
    let cases = || suites.iter().flat_map(|(_, results)| results);
    let (all, failed) = (cases().count(), cases().filter(|result| result.failure.is_some()).count());
    if let Some(junit) = junit {
        std::fs::write(junit, junit::document(&suites))
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", junit.display())))?;
    }
    println!("{all} cases, {failed} failed");
    match (all, failed) {
        (0, _) => Err(Failure::new("no case was run: the files or --filter name none")),
        (_, 0) => Ok(()),
        _ => Err(Failure::new(format!("{failed} of {all} cases failed"))),
    }
}

fn indented(text: &str) -> String {
    text.lines().fold(String::new(), |text, line| text + "      " + line + "\n")
}
