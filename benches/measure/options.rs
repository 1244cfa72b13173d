//! What benches of reads are told on the command line, and what follows from it.
//!
//! Enters: arguments. Leaves: rounds, rows, the folder for data, the answer in its file. Never:
//! options that one bench alone has.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{data_folder, write_json};

/// Options of every bench that reads rows in shuffled windows, round by round.
#[derive(clap::Args)]
pub struct Options {
    /// Few rows, one round: shows that the bench works, measures nothing
    #[arg(long)]
    pub brief: bool,
    /// Where data are kept [default: data, beside the benches' sources]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Rounds [default: the bench's own number, or 1 with --brief]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: Option<u64>,
    /// Rows of a window
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    pub window: u64,
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Options {
    /// What was asked for, else `brief` or `full`.
    pub fn or(&self, asked: Option<u64>, full: u64, brief: u64) -> u64 {
        asked.unwrap_or(if self.brief { brief } else { full })
    }

    /// Rounds; `full` unless told otherwise.
    pub fn rounds(&self, full: u64) -> u64 {
        self.or(self.rounds, full, 1)
    }

    /// The absolute path of the folder for data, which is there afterwards.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn folder(&self) -> Result<PathBuf> {
        let folder = std::path::absolute(self.dir.clone().unwrap_or_else(data_folder))?;
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder)
    }

    /// Writes the answer where the command line says, if it does.
    ///
    /// # Errors
    /// Where the file can't be written, naming it.
    pub fn write(&self, answer: &Value) -> Result<()> {
        match &self.json {
            Some(path) => write_json(path, answer),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn brief_runs_are_short_unless_told_otherwise() {
        let check = |arguments: &[&str], rounds, rows| {
            let arguments = std::iter::once(&"bench").chain(arguments);
            let options = Arguments::try_parse_from(arguments).unwrap().options;
            assert_eq!(
                (options.rounds(5), options.or(None, 900, 30)),
                (rounds, rows)
            );
            assert_eq!(options.or(Some(7), 900, 30), 7);
        };
        check(&[], 5, 900);
        check(&["--brief"], 1, 30);
        check(&["--brief", "--rounds", "3"], 3, 30);
        assert!(Arguments::try_parse_from(["bench", "--rounds", "0"]).is_err());
        assert!(Arguments::try_parse_from(["bench", "--window", "0"]).is_err());
    }
}
