//! The command `loaderd`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match loaderd::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loaderd: {}", in_words(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, less those that it quotes already.
fn in_words(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
