//! The `ebbgate` command: reads arguments and environment, and leaves the rest to `cli`.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

/// Exit code of a command line that cannot be read, as clap has it.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = match cli::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => match cli::advice(&error) {
            Some(advice) => {
                eprintln!("ERROR:  {advice}");
                return ExitCode::from(USAGE);
            }
            None => error.exit(),
        },
    };
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
