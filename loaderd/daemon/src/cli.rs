//! The command line: one file per command.
//!
//! Enters: arguments. Leaves: text on standard output for people, JSON with `--json`;
//! progress and warnings on standard error.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use loaderd_wire::WireError;
use loaderd_wire::message::{PROTOCOL, ToClient, ToDaemon};
use loaderd_wire::socket::Channel;

use crate::size;

mod bench;
mod control;
mod doctor;
#[cfg(feature = "lance")]
mod ingest;
mod log;
mod sample;
mod serve;
#[cfg(feature = "lance")]
mod tags;
#[cfg(feature = "lance")]
mod tile;
mod untiled;

/// A data loader daemon: shuffled, decoded batches from Lance datasets, over shared memory.
///
/// One loaderd runs per machine. The Python classes loaderd.torch.LanceIterableDataset and
/// loaderd.jax.LanceLoader start it automatically; `loaderd serve` starts it by hand.
#[derive(Parser)]
#[command(name = "loaderd", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a folder of images, or generated street scenes, into a Lance dataset, in the layout
    /// that reads fastest
    #[cfg(feature = "lance")]
    Ingest(ingest::Arguments),
    /// Add a tiled copy of a column's JPEGs or masks, losslessly, so that only the crop is decoded
    #[cfg(feature = "lance")]
    Tile(tile::Arguments),
    /// Generate a folder of photo-like JPEGs in class sub-folders, to try things on
    Sample(sample::Arguments),
    /// Run the daemon in the foreground
    Serve(serve::Arguments),
    /// Show the running daemon and its sessions
    Status(control::StatusArguments),
    /// Ask the running daemon to end its sessions and exit
    Stop(control::StopArguments),
    /// Check everything that loaderd needs on this machine, and say how to fix what is wrong
    Doctor(doctor::Arguments),
    /// Show which dataset version and rows the training steps saw
    Log(log::Arguments),
    /// Measure reading, decoding and delivery of a dataset on this machine
    Bench(bench::Arguments),
    /// Remove leftover tags that protect dataset versions from cleanup, or list them
    #[cfg(feature = "lance")]
    #[command(subcommand)]
    Tags(tags::Command),
}

/// Where the daemon listens.
#[derive(clap::Args)]
struct Socket {
    /// The daemon's Unix socket [default: LOADERD_SOCKET, else loaderd/loaderd.sock in the
    /// user's runtime folder]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Socket {
    fn path(&self) -> Result<PathBuf> {
        Ok(match &self.socket {
            Some(path) => std::path::absolute(path)?,
            None => loaderd_wire::paths::socket_path()?,
        })
    }
}

/// Runs the command that the process was called with.
pub fn run() -> Result<()> {
    match Arguments::parse().command {
        #[cfg(feature = "lance")]
        Command::Ingest(arguments) => ingest::run(&arguments),
        #[cfg(feature = "lance")]
        Command::Tile(arguments) => tile::run(&arguments),
        Command::Sample(arguments) => sample::run(&arguments),
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Status(arguments) => control::status(&arguments),
        Command::Stop(arguments) => control::stop(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Log(arguments) => log::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        #[cfg(feature = "lance")]
        Command::Tags(command) => tags::run(&command),
    }
}

/// Says hello to whoever listens at the other end; what that answers.
fn greet(channel: &Channel, wait: Duration) -> Result<ToClient, WireError> {
    let binary = std::env::current_exe()
        .map_or_else(|_| "loaderd".into(), |path| path.display().to_string());
    channel.send(
        &ToDaemon::Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            binary,
        },
        &[],
    )?;
    Ok(channel.receive(Some(wait))?.message)
}

/// A progress bar over `count` of these.
#[cfg(feature = "lance")]
fn bar(count: u64, things: &str) -> indicatif::ProgressBar {
    let template =
        format!("{{bar:30}} {{pos}}/{{len}} {things}  {{per_sec}}  {{eta}} left  {{msg}}");
    let style = indicatif::ProgressStyle::with_template(&template).expect("a template of ours");
    indicatif::ProgressBar::new(count).with_style(style)
}

/// Writes a line to standard error, for people who look on. Where nobody does any more, it is lost.
fn tell(text: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes a line to standard output. A reader that has gone (`| head`) ends the program quietly, as
/// users of pipes expect; what can't be written otherwise, as on a full disk, ends it with an error.
fn say(text: impl std::fmt::Display) {
    use std::io::{ErrorKind, Write};
    match writeln!(std::io::stdout().lock(), "{text}") {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            crate::note(format_args!("loaderd: writing the output: {error}"));
            std::process::exit(1);
        }
    }
}
