//! Where NVIDIA's libraries may lie.
//!
//! Enters: environment variables, and where this program lies. Leaves: candidates, in order.
//! Never: a library opened here.
//!
//! The driver's library is `LOADERD_LIBCUDA`, else `libcuda.so.1` as the loader finds it.
//!
//! nvJPEG is `LOADERD_NVJPEG` and nothing else where that is set; else the one of the highest
//! version that the driver runs, of equal ones the first in this order:
//!
//! 1. the toolkits at `CUDA_HOME`, `CUDA_PATH` and `/usr/local/cuda*`, then what the loader
//!    finds by name;
//! 2. NVIDIA's own wheels, `nvidia/cu13/lib` and `nvidia/nvjpeg/lib` (CUDA 12), in the Python
//!    environments that this program may belong to: the one it is installed in, `VIRTUAL_ENV`
//!    and `CONDA_PREFIX`;
//! 3. the copy that torchvision brings along in these (`torchvision.libs`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// nvJPEG's names with the loader, newest first.
const NVJPEG_NAMES: [&str; 2] = ["libnvjpeg.so.13", "libnvjpeg.so.12"];
/// Where packages lie in an environment: as everybody has it, and as Debian has it.
const PACKAGES: [&str; 2] = ["site-packages", "dist-packages"];
const DRIVER_NAME: &str = "libcuda.so.1";

/// Folders and files that the libraries are looked for in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// `LOADERD_LIBCUDA`.
    pub libcuda: Option<OsString>,
    /// `LOADERD_NVJPEG`.
    pub nvjpeg: Option<OsString>,
    /// Roots of CUDA toolkits.
    pub toolkits: Vec<PathBuf>,
    /// Roots of Python environments, as in `sys.prefix`.
    pub environments: Vec<PathBuf>,
    /// Whether names without a folder are tried, too, as the loader finds them.
    pub by_name: bool,
}

impl Places {
    /// Those of this process.
    pub fn of_process() -> Places {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let folder = |name| variable(name).map(PathBuf::from);
        let mut toolkits: Vec<PathBuf> = ["CUDA_HOME", "CUDA_PATH"]
            .into_iter()
            .filter_map(folder)
            .collect();
        toolkits.extend(children(Path::new("/usr/local"), |name| {
            name.starts_with("cuda")
        }));
        let program = std::env::current_exe().ok();
        let installed = program.and_then(|path| Some(path.parent()?.parent()?.to_owned()));
        let environments = (installed.into_iter()).chain(
            ["VIRTUAL_ENV", "CONDA_PREFIX"]
                .into_iter()
                .filter_map(folder),
        );
        Places {
            libcuda: variable("LOADERD_LIBCUDA"),
            nvjpeg: variable("LOADERD_NVJPEG"),
            toolkits: once_each(toolkits),
            environments: once_each(environments),
            by_name: true,
        }
    }

    /// The driver's library.
    pub(crate) fn driver(&self) -> OsString {
        self.libcuda.clone().unwrap_or_else(|| DRIVER_NAME.into())
    }

    /// Files, and names for the loader, that may be nvJPEG.
    pub(crate) fn nvjpeg(&self) -> Vec<OsString> {
        if let Some(given) = &self.nvjpeg {
            return vec![given.clone()];
        }
        let mut found = Vec::new();
        for toolkit in &self.toolkits {
            for folder in ["lib64", "lib", "targets/x86_64-linux/lib"] {
                let folder = toolkit.join(folder);
                found.extend(NVJPEG_NAMES.map(|name| folder.join(name)));
            }
        }
        found.retain(|path| path.exists());
        let mut found: Vec<OsString> = (once_each(found).into_iter())
            .map(PathBuf::into_os_string)
            .collect();
        if self.by_name {
            found.extend(NVJPEG_NAMES.map(OsString::from));
        }
        let packages: Vec<PathBuf> = (self.environments.iter())
            .flat_map(|prefix| children(&prefix.join("lib"), |name| name.starts_with("python3")))
            .flat_map(|python| PACKAGES.map(|name| python.join(name)))
            .collect();
        for folder in &packages {
            let wheels = [
                "nvidia/cu13/lib/libnvjpeg.so.13",
                "nvidia/nvjpeg/lib/libnvjpeg.so.12",
            ];
            let wheels = wheels.map(|file| folder.join(file));
            found.extend(
                wheels
                    .into_iter()
                    .filter(|path| path.exists())
                    .map(Into::into),
            );
        }
        for folder in &packages {
            let bundled = children(&folder.join("torchvision.libs"), |name| {
                name.starts_with("libnvjpeg.") && name.contains(".so")
            });
            found.extend(bundled.into_iter().map(Into::into));
        }
        found
    }
}

/// What lies in `folder` under a name that is `wanted`, by name; nothing where there is none.
fn children(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| wanted(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// The paths without those that lead to the same place as an earlier one.
fn once_each(paths: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut seen = Vec::new();
    paths
        .into_iter()
        .filter(|path| {
            let real = path.canonicalize().unwrap_or_else(|_| path.clone());
            let is_new = !seen.contains(&real);
            seen.push(real);
            is_new
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_come_in_the_order_that_is_documented() {
        let root = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path.into_os_string()
        };
        let bundled =
            file("env/lib/python3.12/site-packages/torchvision.libs/libnvjpeg.4a0b.so.13");
        file("env/lib/python3.12/site-packages/torchvision.libs/libjpeg.1.so.8");
        let older = file("env/lib/python3.12/site-packages/nvidia/nvjpeg/lib/libnvjpeg.so.12");
        let wheel = file("env/lib/python3.12/dist-packages/nvidia/cu13/lib/libnvjpeg.so.13");
        let toolkit = file("cuda-13.0/lib64/libnvjpeg.so.13");
        std::os::unix::fs::symlink(root.path().join("cuda-13.0"), root.path().join("cuda"))
            .unwrap();
        let mut places = Places {
            toolkits: vec![root.path().join("cuda-13.0"), root.path().join("cuda")],
            environments: vec![root.path().join("env"), root.path().join("none")],
            ..Places::default()
        };
        let files = vec![
            toolkit.clone(),
            older.clone(),
            wheel.clone(),
            bundled.clone(),
        ];
        assert_eq!(places.nvjpeg(), files);
        places.by_name = true;
        let names = NVJPEG_NAMES.map(OsString::from);
        let expected = [&files[..1], &names, &files[1..]].concat();
        assert_eq!(places.nvjpeg(), expected);
        places.nvjpeg = Some("/elsewhere/libnvjpeg.so".into());
        assert_eq!(places.nvjpeg(), ["/elsewhere/libnvjpeg.so"]);
        assert_eq!(places.driver(), "libcuda.so.1");
    }
}
