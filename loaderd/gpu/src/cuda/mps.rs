//! Whether this process's CUDA calls would go through an MPS server.
//!
//! Enters: environment variables and a folder. Leaves: what is there. Never: a word with the
//! control daemon, whose protocol is its own.

use std::path::{Path, PathBuf};

/// Where the control daemon listens by default (nvidia-cuda-mps-control(1)).
const FOLDER: &str = "/tmp/nvidia-mps";

/// What the folder of the MPS control daemon shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mps {
    /// No daemon has made the folder; each process has the device by itself.
    None,
    /// A daemon runs: contexts are made through its server.
    Runs {
        /// Its folder.
        folder: PathBuf,
        /// Its process, where its file tells.
        pid: Option<u32>,
    },
    /// The folder is there, but its daemon is gone.
    Gone {
        /// Its folder.
        folder: PathBuf,
    },
    /// `CUDA_MPS_PIPE_DIRECTORY` names a folder without a daemon.
    Absent {
        /// That folder.
        folder: PathBuf,
    },
}

impl Mps {
    /// Looks at the folder that `CUDA_MPS_PIPE_DIRECTORY` names, or at the usual one.
    pub fn of_process() -> Mps {
        let named = std::env::var_os("CUDA_MPS_PIPE_DIRECTORY").filter(|value| !value.is_empty());
        Mps::at(named.as_ref().map(Path::new), Path::new("/proc"))
    }

    /// `processes`: where processes are folders named by their number, usually `/proc`.
    fn at(named: Option<&Path>, processes: &Path) -> Mps {
        let folder = named.unwrap_or(Path::new(FOLDER)).to_owned();
        if !folder.join("control").exists() {
            return match named {
                Some(_) => Mps::Absent { folder },
                None => Mps::None,
            };
        }
        let file = folder.join("nvidia-cuda-mps-control.pid");
        let pid = std::fs::read_to_string(file)
            .ok()
            .and_then(|text| text.trim_matches(['\0', ' ', '\n']).parse::<u32>().ok());
        match pid {
            Some(pid) if !processes.join(pid.to_string()).exists() => Mps::Gone { folder },
            pid => Mps::Runs { folder, pid },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_told_from_what_it_left_behind() {
        let root = tempfile::tempdir().unwrap();
        let (processes, folder) = (root.path().join("proc"), root.path().join("mps"));
        std::fs::create_dir_all(processes.join("77")).unwrap();
        let look = || Mps::at(Some(&folder), &processes);
        let absent = Mps::Absent {
            folder: folder.clone(),
        };
        assert_eq!(look(), absent);
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(look(), absent);
        std::fs::write(folder.join("control"), "").unwrap();
        let runs = |pid| Mps::Runs {
            folder: folder.clone(),
            pid,
        };
        assert_eq!(look(), runs(None));
        std::fs::write(folder.join("nvidia-cuda-mps-control.pid"), "77\n").unwrap();
        assert_eq!(look(), runs(Some(77)));
        std::fs::write(folder.join("nvidia-cuda-mps-control.pid"), "78").unwrap();
        assert_eq!(
            look(),
            Mps::Gone {
                folder: folder.clone()
            }
        );
    }
}
