//! Where daemon and client meet, and where they keep things.
//!
//! Enters: the environment. Leaves: the path of the socket, and folders that exist and
//! belong to the user. It never creates the files in them.
//!
//! - Socket: `$LOADERD_SOCKET`, else `loaderd/loaderd.sock` in `$XDG_RUNTIME_DIR` or
//!   `/run/user/<uid>`, else `run/loaderd.sock` in the state folder: nothing of ours lies
//!   in `/tmp`, where a killed daemon would leave it.
//! - State (step log, daemon log): `$LOADERD_STATE`, else `$XDG_STATE_HOME/loaderd`,
//!   else `~/.local/state/loaderd`.
//! - Cache (page maps): `$LOADERD_CACHE`, else `$XDG_CACHE_HOME/loaderd`, else
//!   `~/.cache/loaderd`.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::WireError;

/// The socket's path; its folder exists then, unless `LOADERD_SOCKET` named the path.
///
/// Refuses a folder that is not ours alone: whoever can replace the socket can feed the
/// training, and whoever can connect to it reads as us.
pub fn socket_path() -> Result<PathBuf, WireError> {
    Environment::of_process().socket_path()
}

/// The folder for the step log and the daemon's log; created where it is missing.
pub fn state_dir() -> Result<PathBuf, WireError> {
    Environment::of_process().state_dir()
}

/// The folder for page maps; created where it is missing. All in it can be made again.
pub fn cache_dir() -> Result<PathBuf, WireError> {
    Environment::of_process().home_dir("cache", "LOADERD_CACHE", "XDG_CACHE_HOME", ".cache")
}

/// What the rules depend on; made up in tests.
struct Environment<'a> {
    variable: &'a dyn Fn(&str) -> Option<OsString>,
    uid: u32,
    run_user: &'a Path,
}

impl Environment<'static> {
    fn of_process() -> Environment<'static> {
        Environment {
            variable: &|name| std::env::var_os(name),
            uid: rustix::process::geteuid().as_raw(),
            run_user: Path::new("/run/user"),
        }
    }
}

impl Environment<'_> {
    fn socket_path(&self) -> Result<PathBuf, WireError> {
        if let Some(path) = self.path("LOADERD_SOCKET") {
            // The daemon changes its working folder; a relative path would mean two places.
            return std::path::absolute(&path).map_err(|error| folder_error(&path, &error));
        }
        let runtime = self
            .absolute_path("XDG_RUNTIME_DIR")
            .into_iter()
            .chain([self.run_user.join(self.uid.to_string())])
            .find(|folder| {
                folder
                    .metadata()
                    .is_ok_and(|found| found.is_dir() && found.uid() == self.uid)
            });
        let folder = match runtime {
            Some(runtime) => runtime.join("loaderd"),
            None => self.state_dir()?.join("run"),
        };
        self.private_dir(&folder)?;
        Ok(folder.join("loaderd.sock"))
    }

    fn state_dir(&self) -> Result<PathBuf, WireError> {
        self.home_dir("state", "LOADERD_STATE", "XDG_STATE_HOME", ".local/state")
    }

    fn home_dir(
        &self,
        what: &'static str,
        own: &'static str,
        xdg: &str,
        below_home: &str,
    ) -> Result<PathBuf, WireError> {
        let unusable = |folder: &Path, error: io::Error| WireError::Folder {
            path: folder.to_owned(),
            why: format!("{error}: choose another {what} folder with {own}"),
        };
        let folder = if let Some(path) = self.path(own) {
            std::path::absolute(&path).map_err(|error| unusable(&path, error))?
        } else if let Some(base) = self.absolute_path(xdg) {
            base.join("loaderd")
        } else if let Some(home) = self.absolute_path("HOME") {
            home.join(below_home).join("loaderd")
        } else {
            return Err(WireError::NoHome {
                what,
                variable: own,
            });
        };
        create_dir(&folder).map_err(|error| unusable(&folder, error))?;
        Ok(folder)
    }

    /// Creates a folder for us alone, or checks that it is one.
    fn private_dir(&self, folder: &Path) -> Result<(), WireError> {
        create_dir(folder).map_err(|error| folder_error(folder, &error))?;
        let found = fs::symlink_metadata(folder).map_err(|error| folder_error(folder, &error))?;
        let why = if !found.is_dir() {
            "it is no folder".to_owned()
        } else if found.uid() != self.uid {
            format!("it belongs to user {}, not {}", found.uid(), self.uid)
        } else if found.mode() & 0o077 != 0 {
            format!("its mode {:o} lets others in", found.mode() & 0o777)
        } else {
            return Ok(());
        };
        Err(WireError::Folder {
            path: folder.to_owned(),
            why: format!(
                "{why}: remove it or set its mode to 700, or choose a socket with LOADERD_SOCKET"
            ),
        })
    }

    /// A variable that is set and not empty.
    fn path(&self, name: &str) -> Option<PathBuf> {
        (self.variable)(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    }

    /// As the XDG base directory specification has it: relative paths count as unset.
    fn absolute_path(&self, name: &str) -> Option<PathBuf> {
        self.path(name).filter(|path| path.is_absolute())
    }
}

/// Mode 0700 for what is created; what exists stays as it is.
fn create_dir(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn folder_error(folder: &Path, error: &io::Error) -> WireError {
    WireError::Folder {
        path: folder.to_owned(),
        why: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct World {
        folder: tempfile::TempDir,
        variables: BTreeMap<&'static str, PathBuf>,
    }

    impl World {
        fn new() -> World {
            World {
                folder: tempfile::tempdir().unwrap(),
                variables: BTreeMap::new(),
            }
        }

        fn at(&self, path: &str) -> PathBuf {
            self.folder.path().join(path)
        }

        fn ask<T>(&self, question: impl FnOnce(&Environment<'_>) -> T) -> T {
            question(&Environment {
                variable: &|name| self.variables.get(name).map(|path| path.into()),
                uid: rustix::process::geteuid().as_raw(),
                run_user: &self.at("run"),
            })
        }

        fn socket(&self) -> Result<PathBuf, WireError> {
            self.ask(|environment| environment.socket_path())
        }
    }

    fn uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn sockets_go_down_the_ladder() {
        let mut world = World::new();
        world.variables.insert("LOADERD_STATE", world.at("state"));
        let fallback = world.at("state/run");
        assert_eq!(world.socket().unwrap(), fallback.join("loaderd.sock"));
        assert_eq!(fallback.metadata().unwrap().mode() & 0o777, 0o700);

        let run_user = world.at(&format!("run/{}", uid()));
        fs::create_dir_all(&run_user).unwrap();
        assert_eq!(
            world.socket().unwrap(),
            run_user.join("loaderd/loaderd.sock")
        );

        // A folder that is not there, as after `su`, is passed over.
        world.variables.insert("XDG_RUNTIME_DIR", world.at("gone"));
        assert_eq!(
            world.socket().unwrap(),
            run_user.join("loaderd/loaderd.sock")
        );
        world.variables.insert("XDG_RUNTIME_DIR", world.at("run"));
        assert_eq!(
            world.socket().unwrap(),
            world.at("run/loaderd/loaderd.sock")
        );

        world.variables.insert("LOADERD_SOCKET", world.at("own"));
        assert_eq!(world.socket().unwrap(), world.at("own"));
        world.variables.insert("LOADERD_SOCKET", "relative".into());
        assert!(world.socket().unwrap().is_absolute());
    }

    #[test]
    fn folders_that_others_can_enter_are_refused() {
        let mut world = World::new();
        world.variables.insert("LOADERD_STATE", world.at("state"));
        let folder = world.at("state/run");
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let error = world.socket().unwrap_err().to_string();
        assert!(error.contains("mode 755 lets others in"), "{error}");

        fs::remove_dir(&folder).unwrap();
        fs::create_dir_all(world.at("elsewhere")).unwrap();
        symlink(world.at("elsewhere"), &folder).unwrap();
        let error = world.socket().unwrap_err().to_string();
        assert!(error.contains("no folder"), "{error}");
    }

    #[test]
    fn homes_go_down_the_ladder() {
        let mut world = World::new();
        let state = |world: &World| world.ask(|environment| environment.state_dir());
        let error = state(&world).unwrap_err().to_string();
        assert!(error.contains("set LOADERD_STATE"), "{error}");

        for (variable, value, expected) in [
            ("HOME", "home", "home/.local/state/loaderd"),
            ("XDG_STATE_HOME", "xdg", "xdg/loaderd"),
            ("LOADERD_STATE", "own", "own"),
        ] {
            world.variables.insert(variable, world.at(value));
            let found = state(&world).unwrap();
            assert_eq!(found, world.at(expected), "{variable}");
            assert!(found.is_dir());
        }
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let mut world = World::new();
        fs::write(world.at("file"), "").unwrap();
        world.variables.insert("LOADERD_CACHE", world.at("file"));
        let error = world
            .ask(|environment| {
                environment.home_dir("cache", "LOADERD_CACHE", "XDG_CACHE_HOME", ".cache")
            })
            .unwrap_err();
        assert!(matches!(error, WireError::Folder { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains("file cannot be used"), "{error}");
        assert!(
            error.contains("choose another cache folder with LOADERD_CACHE"),
            "{error}"
        );
    }
}
