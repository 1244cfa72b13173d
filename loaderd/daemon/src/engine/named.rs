//! Images that a text column names: a path, or a `file://` URI.
//!
//! Enters: the text, and the dataset's folder, where relative paths begin. Leaves: the
//! file's bytes, or why not, and whether that is the row's fault. The daemon reads as its
//! user, whatever the dataset names: a dataset is trusted as far as that user's files go. It
//! reads regular files only, of a bounded size.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Most bytes of one file.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Why there are no bytes, in words that name the file.
#[derive(Debug)]
pub(super) enum Unread {
    /// By what the text says, or what lies there: a bad sample.
    Sample(String),
    /// The disk, the network or the daemon's limits failed, as they may for any row.
    Io(String),
}

/// The bytes of the file that `text` names; blocks on the file system.
pub(super) fn read(text: &[u8], folder: Option<&Path>) -> Result<Vec<u8>, Unread> {
    let path = locate(text, folder).map_err(Unread::Sample)?;
    let bytes = read_file(&path).map_err(|error| {
        let text = format!("file {}: {error}", path.display());
        match is_of_the_row(&error) {
            true => Unread::Sample(text),
            false => Unread::Io(text),
        }
    })?;
    bytes.map_err(|why| Unread::Sample(format!("file {}: {why}", path.display())))
}

/// The bytes, or why such a file is not read.
fn read_file(path: &Path) -> io::Result<Result<Vec<u8>, String>> {
    // Opening a pipe waits for whoever writes to it, but for this flag.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Err("it is no regular file".into()));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Ok(Err(format!(
            "it has {} bytes, at most {FILE_BYTES_MAX} are read",
            metadata.len()
        )));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Ok(bytes))
}

/// Whether the path is at fault, and not what it is read with.
fn is_of_the_row(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code.is_some_and(|code| {
        [
            libc::ENOENT,
            libc::ENOTDIR,
            libc::EACCES,
            libc::EPERM,
            libc::ELOOP,
            libc::ENAMETOOLONG,
            libc::EINVAL,
            libc::ENXIO,
            libc::ENODEV,
        ]
        .contains(&code)
    })
}

fn locate(text: &[u8], folder: Option<&Path>) -> Result<PathBuf, String> {
    let shown = String::from_utf8_lossy(text);
    let path = match text.strip_prefix(b"file://") {
        // RFC 8089: an empty host, or localhost, is this machine.
        Some(rest) => {
            let path = rest.strip_prefix(b"localhost").unwrap_or(rest);
            if !path.starts_with(b"/") {
                return Err(format!("\"{shown}\" names another machine"));
            }
            unescape(path).ok_or_else(|| format!("\"{shown}\" is no URI: % escapes two digits"))?
        }
        None if has_scheme(text) => {
            return Err(format!(
                "\"{shown}\": only paths and file:// URIs can be read"
            ));
        }
        None => text.to_vec(),
    };
    if path.is_empty() || path.contains(&0) {
        return Err(format!("\"{shown}\" is no path"));
    }
    let path = PathBuf::from(OsString::from_vec(path));
    match folder {
        Some(folder) => Ok(folder.join(path)),
        None if path.is_absolute() => Ok(path),
        None => Err(format!(
            "\"{shown}\" is relative, and the dataset has no folder to begin at"
        )),
    }
}

/// `scheme://`, as in RFC 3986, section 3.1.
fn has_scheme(text: &[u8]) -> bool {
    let Some(at) = text.windows(3).position(|part| part == b"://") else {
        return false;
    };
    let scheme = &text[..at];
    scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
}

/// RFC 3986, section 2.1. `None` where a `%` has not two digits.
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let value = |digit: u8| (digit as char).to_digit(16);
        bytes.push((value(digits[0])? * 16 + value(digits[1])?) as u8);
        rest = after;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let check = |text: &str, folder: Option<&str>, expected: Result<&str, &str>| {
            let found = locate(text.as_bytes(), folder.map(Path::new));
            match expected {
                Ok(path) => assert_eq!(found.as_deref(), Ok(Path::new(path))),
                Err(part) => {
                    let error = found.unwrap_err();
                    assert!(error.contains(part), "{error}");
                }
            }
        };
        check("/a/b.jpg", Some("/data"), Ok("/a/b.jpg"));
        check("b c%20.jpg", Some("/data"), Ok("/data/b c%20.jpg"));
        check("file:///a/b%20c.jpg", None, Ok("/a/b c.jpg"));
        check("file://localhost/a", None, Ok("/a"));
        check("a:b.jpg", Some("/data"), Ok("/data/a:b.jpg"));
        check("file://host/a", None, Err("another machine"));
        check("file:///a%2", None, Err("escapes two digits"));
        check("file:///a%zz", None, Err("escapes two digits"));
        check("https://host/a.jpg", Some("/data"), Err("only paths"));
        check("s3://bucket/a.jpg", Some("/data"), Err("only paths"));
        check("b.jpg", None, Err("no folder to begin at"));
        check("", Some("/data"), Err("is no path"));
        check("a\0b", Some("/data"), Err("is no path"));
    }

    #[test]
    fn only_regular_files_of_a_bounded_size() {
        let dir = tempfile::tempdir().unwrap();
        let check = |name: &str, expected: &str| {
            let error = read(name.as_bytes(), Some(dir.path())).unwrap_err();
            let Unread::Sample(text) = &error else {
                panic!("{error:?}");
            };
            assert!(text.contains(expected) && text.contains("file /"), "{text}");
        };
        std::fs::write(dir.path().join("small"), b"bytes").unwrap();
        assert_eq!(read(b"small", Some(dir.path())).unwrap(), b"bytes");
        check("missing", "No such file");
        check(".", "no regular file");
        let large = File::create(dir.path().join("large")).unwrap();
        large.set_len(FILE_BYTES_MAX + 1).unwrap();
        check("large", "at most 268435456 are read");
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        check("pipe", "no regular file");
    }

    #[test]
    fn a_disk_that_fails_is_no_fault_of_the_row() {
        // There is nothing at this process's address 0: reading it is an I/O error.
        let error = read(b"/proc/self/mem", None).unwrap_err();
        let Unread::Io(text) = &error else {
            panic!("{error:?}");
        };
        assert!(
            text.contains("file /proc/self/mem: Input/output error"),
            "{text}"
        );
        for (code, expected) in [
            (libc::ENOENT, true),
            (libc::EACCES, true),
            (libc::EMFILE, false),
            (libc::ENOMEM, false),
            (libc::ESTALE, false),
        ] {
            assert_eq!(is_of_the_row(&io::Error::from_raw_os_error(code)), expected);
        }
    }
}
