//! The command `loaderd`.

use std::process::ExitCode;

fn main() -> ExitCode {
    outlive_the_file_size_limit();
    loaderd::abort_on_panic();
    match loaderd::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            loaderd::note(format_args!("loaderd: {}", in_words(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Beyond the file size limit (`ulimit -f`) a write is to fail with an error, as on a full disk,
/// instead of ending the process.
fn outlive_the_file_size_limit() {
    // SAFETY: no other thread runs yet, and a signal that is ignored runs no code of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
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
