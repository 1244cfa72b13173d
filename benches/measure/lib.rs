//! What every bench measures with, without Lance.
//!
//! Enters: a command line, files, a stretch of work. Leaves: files out of the page cache or in it,
//! our own reader on one of them, what the work cost, and on which machine, in words and as JSON.
//! Never: judges; each bench states its own targets.

pub mod options;

pub mod machine;

pub mod cache;

pub mod reader;

pub mod meter;

pub mod report;

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where benches keep their data unless told otherwise: `data` beside their sources.
pub fn data_folder() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).join("data")
}

/// Prints one line of a bench's answer. A reader that hung up is no reason to fail.
pub fn say(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Writes a bench's answer as JSON.
///
/// # Errors
/// Where the file can't be written, naming it.
pub fn write_json(path: &Path, value: &serde_json::Value) -> anyhow::Result<()> {
    use anyhow::Context;
    let text = serde_json::to_string_pretty(value)?;
    std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
}
