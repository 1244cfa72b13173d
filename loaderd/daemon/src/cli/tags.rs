//! `loaderd tags`: the tags that hold dataset versions against clean-up.
//!
//! Enters: a dataset, an age. Leaves: fewer tags, or a list of them. It never touches a tag that is
//! not loaderd's.

use std::time::Duration;

use anyhow::Result;

use super::say;

/// Commands of `loaderd tags`.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Remove loaderd's own tags that no run needs any more; other tags are never touched
    Prune(PruneArguments),
}

/// Arguments of `loaderd tags prune`.
#[derive(clap::Args)]
pub(super) struct PruneArguments {
    /// The dataset
    uri: String,
    /// Only tags older than this many hours
    #[arg(long, value_name = "HOURS", default_value_t = 168)]
    older_than: u64,
    /// Only print what would be removed
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(command: &Command) -> Result<()> {
    let Command::Prune(arguments) = command;
    let pruned = loaderd_snapshot::prune_tags(
        &arguments.uri,
        Duration::from_secs(arguments.older_than.saturating_mul(3600)),
        arguments.dry_run,
    )?;
    for tag in &pruned {
        say(tag);
    }
    let verb = if arguments.dry_run {
        "would be removed"
    } else {
        "removed"
    };
    say(format_args!("{} tags {verb}", pruned.len()));
    Ok(())
}
