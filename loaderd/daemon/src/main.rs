//! The command `loaderd`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match loaderd::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loaderd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
