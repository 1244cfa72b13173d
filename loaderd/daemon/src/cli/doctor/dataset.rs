//! Where the data lie: the file system, O_DIRECT there, and what is cached.
//!
//! Enters: a URI, a folder, or nothing (the current folder). Leaves: checks. It reads
//! some data files, and writes only where there are none: to a file without a name.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
#[cfg(feature = "lance")]
use loaderd_names::listed;
use loaderd_read::{FileSet, Mode};
#[cfg(feature = "lance")]
use loaderd_snapshot::UntiledSample;
use rustix::fs::{Mode as FileMode, OFlags};

use super::Check;
use super::kernel::trial;
#[cfg(feature = "lance")]
use crate::cli::untiled::{Looks, SAMPLE};

/// Entries of the folder that are looked at.
const ENTRIES_MAX: usize = 100_000;
/// Files that are opened: the largest.
const FILES_MAX: usize = 256;
/// File systems whose reads go over a network or through another process.
const FAR: [&str; 14] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "9p",
    "ceph",
    "lustre",
    "gpfs",
    "beegfs",
    "glusterfs",
    "afs",
    "virtiofs",
    "fuse",
    "fuseblk",
];

/// What was named.
pub(super) enum Place {
    /// A source in memory: nothing is read.
    Memory,
    /// A folder, or a file.
    Local {
        path: PathBuf,
        /// The user named it.
        named: bool,
    },
    /// A URI of another kind.
    Elsewhere(String),
}

/// The place, and its data files with their sizes, largest first.
pub(super) fn find(place: Option<&str>) -> (Place, Vec<PathBuf>) {
    let path = match place {
        Some(uri) if uri.starts_with("memory:") => return (Place::Memory, Vec::new()),
        Some(uri) => match uri.strip_prefix("file://") {
            Some(path) => PathBuf::from(path),
            None if uri.contains("://") => return (Place::Elsewhere(uri.into()), Vec::new()),
            None => PathBuf::from(uri),
        },
        None => PathBuf::from("."),
    };
    let path = fs::canonicalize(&path).unwrap_or(path);
    // Where nothing is named, the folder stands for its file system.
    let files = match place {
        Some(_) => data_files(&path),
        None => Vec::new(),
    };
    let named = place.is_some();
    (Place::Local { path, named }, files)
}

/// The regular files at `path`: those of a Lance dataset's `data` folder, else all.
fn data_files(path: &Path) -> Vec<PathBuf> {
    let data = path.join("data");
    let is_lance = is_dataset(path) && data.is_dir();
    let mut folders = vec![if is_lance { data } else { path.to_owned() }];
    let mut files = Vec::new();
    if path.is_file() {
        files.push((path.metadata().map_or(0, |found| found.len()), path.into()));
    }
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            seen += 1;
            if seen > ENTRIES_MAX {
                break;
            }
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) if found.is_file() && found.len() > 0 => {
                    files.push((found.len(), entry.path()));
                }
                _ => {}
            }
        }
    }
    files.sort_by(|a, b| b.cmp(a));
    files.into_iter().map(|(_, path)| path).collect()
}

pub(super) fn checks(place: &Place, files: &[PathBuf]) -> Vec<Check> {
    let (path, named) = match place {
        Place::Memory => return vec![Check::ok("dataset", "rows in memory: no file is read")],
        Place::Elsewhere(uri) => {
            return vec![Check::failed(
                "dataset",
                format!("{uri} is not on a local disk"),
                "copy the dataset to a local disk: others are not read so far",
            )];
        }
        Place::Local { path, named } => (path, *named),
    };
    let shown = path.display();
    if let Err(error) = path.metadata() {
        return vec![Check::failed(
            "dataset",
            format!("{shown}: {error}"),
            "check the path",
        )];
    }
    let mut checks = vec![match (open(path, named), file_system(path)) {
        (Err(error), _) => Check::failed(
            "dataset",
            format!("{shown}: {error:#}"),
            "check path and dataset",
        ),
        (Ok(what), Some((kind, device))) if is_far(&kind) => Check::slow(
            "dataset",
            format!("{shown}: {what}on {kind} ({device})"),
            "copy it to a local disk: each row is a read of its own",
        ),
        (Ok(_), Some((kind, device))) if named && !is_dataset(path) => Check::missing(
            "dataset",
            format!("{shown}: no Lance dataset, on {kind} ({device})"),
            "name the dataset's own folder, the one that holds _versions; `loaderd ingest` makes one of a folder of \
             images",
        ),
        (Ok(what), Some((kind, device))) => {
            Check::ok("dataset", format!("{shown}: {what}on {kind} ({device})"))
        }
        (Ok(what), None) => Check::ok("dataset", format!("{shown}: {what}on some file system")),
    }];
    checks.extend(reading(path, files));
    checks.extend(tiles(path, named));
    checks
}

/// Whether there are JPEGs or masks that could be tiled, for those who can look at them.
#[cfg(feature = "lance")]
fn tiles(path: &Path, named: bool) -> Option<Check> {
    if !named || !is_dataset(path) {
        return None;
    }
    let uri = path.display().to_string();
    let samples = match loaderd_snapshot::sample_untiled(&uri, SAMPLE) {
        Ok(samples) => samples,
        Err(error) => {
            let mend = "check the dataset and its data files";
            return Some(Check::missing("tiles", format!("not known: {error}"), mend));
        }
    };
    let (mut found, mut mends) = (Vec::new(), Vec::new());
    for UntiledSample { column, images } in &samples {
        // A mask belongs to an image, which another column holds.
        let others = samples.iter().map(|it| &it.column);
        let be_masks = others.filter(|other| *other != column).any(|other| {
            loaderd_snapshot::sample_column(&uri, other, SAMPLE)
                .is_ok_and(|images| Looks::of(images.iter().map(Vec::as_slice)).are_images())
        });
        let looks = Looks::of(images.iter().map(Vec::as_slice));
        if let Some(words) = looks.worth_tiling(be_masks) {
            found.push(format!("column {column:?}: {words}"));
            mends.push(format!("`loaderd tile {uri} --column {column}`"));
        }
    }
    match (samples.is_empty(), found.is_empty()) {
        (true, _) => None,
        (false, true) => Some(Check::ok(
            "tiles",
            "no image that should be tiled was found",
        )),
        (false, false) => Some(Check::slow("tiles", found.join(", "), mends.join(", "))),
    }
}

#[cfg(not(feature = "lance"))]
fn tiles(_path: &Path, _named: bool) -> Option<Check> {
    None
}

/// Opens the dataset where there is one, for those who can.
#[cfg(feature = "lance")]
fn open(path: &Path, named: bool) -> Result<String> {
    if !named || !is_dataset(path) {
        return Ok(String::new());
    }
    let fields = crate::source::fields(&path.display().to_string(), None)?;
    let names: Vec<String> = fields.into_iter().map(|field| field.name).collect();
    Ok(format!("Lance dataset of {}, ", listed(&names)))
}

#[cfg(not(feature = "lance"))]
fn open(_path: &Path, _named: bool) -> Result<String> {
    Ok(String::new())
}

/// Whether a folder looks like a Lance dataset.
fn is_dataset(path: &Path) -> bool {
    path.join("_versions").is_dir()
}

fn is_far(kind: &str) -> bool {
    FAR.contains(&kind) || kind.starts_with("fuse.")
}

/// Kind and device of the file system that holds `path`.
pub(super) fn file_system(path: &Path) -> Option<(String, String)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mount_of(&mounts, path)
}

/// The mount with the longest mount point above `path`; of several there, the last.
fn mount_of(mounts: &str, path: &Path) -> Option<(String, String)> {
    mounts
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let point = unescaped(before.split(' ').nth(4)?);
            let mut after = after.split(' ');
            let found = (after.next()?.to_owned(), after.next()?.to_owned());
            path.starts_with(&point)
                .then(|| (point.as_os_str().len(), found))
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, found)| found)
}

/// Blanks stand as `\040` in mountinfo (proc(5)).
fn unescaped(text: &str) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let octal = (first == b'\\')
            .then(|| std::str::from_utf8(after.get(..3)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// Tries O_DIRECT, and asks how a session would read.
fn reading(path: &Path, files: &[PathBuf]) -> Vec<Check> {
    // Kept open until the end: it has no name.
    let (chosen, _unnamed) = if files.is_empty() {
        match unnamed_file(path) {
            Ok(file) => {
                let name = format!("/proc/self/fd/{}", file.as_raw_fd());
                (vec![name.into()], Some(file))
            }
            // A folder that we may not write to, without files: nothing to try.
            Err(_) => return Vec::new(),
        }
    } else {
        (files[..files.len().min(FILES_MAX)].to_vec(), None)
    };
    let opened = FileSet::open(chosen).map(Arc::new);
    let set = match opened {
        Ok(set) => set,
        Err(error) => {
            return vec![Check::failed(
                "direct_io",
                error.to_string(),
                "make the data files readable to this user",
            )];
        }
    };
    let direct = match trial(set.clone(), Mode::Direct) {
        Ok(report) => Check::ok(
            "direct_io",
            format!("O_DIRECT reads, aligned to {} bytes", report.align),
        ),
        Err(error) => Check::slow(
            "direct_io",
            format!("{error:#}"),
            "a file system that has it (ext4, xfs) spares the copy through the page cache",
        ),
    };
    if files.is_empty() {
        return vec![direct];
    }
    let cache = match trial(set, Mode::Auto) {
        Ok(report) => {
            let state = report.reasons.last().cloned().unwrap_or_default();
            let how = match report.direct {
                true => "past the page cache",
                false => "through the page cache",
            };
            let which = match files.len() > FILES_MAX {
                true => format!("the {FILES_MAX} largest of {} files: ", files.len()),
                false => String::new(),
            };
            Check::ok(
                "page_cache",
                format!("{which}{state}: a session would read {how}"),
            )
        }
        Err(error) => Check::failed(
            "page_cache",
            format!("{error:#}"),
            "check the disk and the data files",
        ),
    };
    vec![direct, cache]
}

/// A file that has no name and goes when it is closed, with something to read in it.
fn unnamed_file(folder: &Path) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(folder, flags, FileMode::RUSR)?);
    file.write_all(&[42; 1 << 16])
        .context("writing a trial file")?;
    file.sync_data()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn the_innermost_mount_counts() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/sda rw\n\
                      2 1 0:9 / /data rw,relatime shared:1 - nfs4 host:/x rw\n\
                      3 1 0:7 / /with\\040blank rw - tmpfs none rw\n";
        for (path, kind) in [
            ("/home/a", "ext4"),
            ("/data/b", "nfs4"),
            ("/database", "ext4"),
            ("/with blank/c", "tmpfs"),
        ] {
            assert_eq!(mount_of(mounts, Path::new(path)).unwrap().0, kind, "{path}");
        }
        assert!(is_far("nfs4") && is_far("fuse.sshfs") && !is_far("ext4"));
    }

    #[test]
    fn places_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let check = |place: &str| {
            let (place, files) = find(Some(place));
            let mut checks = checks(&place, &files);
            checks.remove(0)
        };
        let path = folder.path().to_str().unwrap();
        assert_eq!(check("memory:rows=3").verdict, Verdict::Ok);
        assert_ne!(check(path).verdict, Verdict::Failed);
        assert_ne!(check(&format!("file://{path}")).verdict, Verdict::Failed);
        let gone = check(&format!("{path}/gone"));
        assert_eq!(gone.verdict, Verdict::Failed);
        assert!(gone.found.contains("No such file"), "{gone:?}");
        assert!(check("s3://bucket/x.lance").found.contains("s3://bucket"));
    }

    #[test]
    fn data_files_are_those_of_the_data_folder() {
        let folder = tempfile::tempdir().unwrap();
        for (name, size) in [
            ("data/a.lance", 9000),
            ("data/sub/b.blob", 90_000),
            ("x", 1),
        ] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![1; size]).unwrap();
        }
        let names = |files: &[PathBuf]| -> Vec<String> {
            let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
            files.iter().map(name).collect()
        };
        assert_eq!(
            names(&data_files(folder.path())),
            ["b.blob", "a.lance", "x"]
        );
        fs::create_dir(folder.path().join("_versions")).unwrap();
        let files = data_files(folder.path());
        assert_eq!(names(&files), ["b.blob", "a.lance"]);
        let checks = reading(folder.path(), &files);
        assert_eq!(checks[1].name, "page_cache");
        assert_eq!(checks[1].verdict, Verdict::Ok, "{checks:?}");
    }
}
