//! `ebbgate-waf`: runs the Core Rule Set for `ebbgate-edge`, which starts it with a socket as its standard input.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use ebbgate_waf::{confinement, worker};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(rules), None) = (arguments.next(), arguments.next()) else {
        eprintln!(
            "ebbgate-waf: ebbgate-edge --waf-rules starts it; it takes the path of the rules and a socket"
        );
        return ExitCode::FAILURE;
    };
    match run(Path::new(&rules)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ebbgate-waf: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(rules: &Path) -> Result<(), Box<dyn std::error::Error>> {
    confinement::begin()?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut socket = UnixStream::from(socket);
    if let Some(engine) = worker::greet(&mut socket, rules, confinement::seal)? {
        worker::answer(&mut socket, &engine)?;
    }
    Ok(())
}
