//! The `ebbgate` command: reads arguments and environment, and leaves the rest to `cli`.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    #[expect(clippy::disallowed_methods, reason = "the one place of the command that reads the environment")]
    let env = |name: &str| std::env::var(name).ok();
    match cli::run(arguments, &env) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{failure}");
            ExitCode::FAILURE
        }
    }
}
