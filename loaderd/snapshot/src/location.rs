//! Where a dataset lies: from a URI as users write it to an absolute local path.
//!
//! Enters: a plain path or a `file://` URI. Leaves: a [`Location`]. Anything with another scheme is
//! refused here, in words. It never touches the disk.

use std::path::{Path, PathBuf};

use crate::SnapshotError;

/// A local dataset folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    /// The absolute path; symbolic links are kept as they are.
    path: PathBuf,
    /// The same as text: what logs and errors show, and what Lance is given.
    uri: String,
}

impl Location {
    pub(crate) fn parse(uri: &str) -> Result<Self, SnapshotError> {
        let bad = |reason: &str| SnapshotError::BadUri {
            uri: uri.to_owned(),
            reason: reason.to_owned(),
        };
        let local = match uri.split_once("://") {
            None => PathBuf::from(uri),
            Some(("file", rest)) => {
                let path = rest.strip_prefix("localhost").unwrap_or(rest);
                if !path.starts_with('/') {
                    return Err(bad("a file:// URI needs an absolute path"));
                }
                PathBuf::from(percent_decoded(path).ok_or_else(|| bad("broken percent escape"))?)
            }
            Some((scheme, _)) if is_scheme(scheme) => {
                return Err(SnapshotError::UnsupportedScheme {
                    uri: uri.to_owned(),
                    scheme: scheme.to_owned(),
                });
            }
            Some(_) => PathBuf::from(uri),
        };
        if local.as_os_str().is_empty() {
            return Err(bad("it is empty"));
        }
        let path = std::path::absolute(&local).map_err(|e| bad(&e.to_string()))?;
        // `absolute` keeps a trailing slash, which would make one place look like two.
        let path: PathBuf = path.components().collect();
        let uri = path
            .to_str()
            .ok_or_else(|| bad("it is not valid UTF-8"))?
            .to_owned();
        Ok(Self { path, uri })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }
}

/// RFC 3986, section 3.1: a letter, then letters, digits, `+`, `-`, `.`.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_uris() {
        let check = |uri: &str, expected: &str| {
            let location = Location::parse(uri).unwrap();
            assert_eq!(location.uri(), expected, "{uri}");
            assert_eq!(location.path(), Path::new(expected), "{uri}");
        };
        check("/data/a.lance", "/data/a.lance");
        check("/data/a.lance/", "/data/a.lance");
        check("file:///data/a%20b.lance", "/data/a b.lance");
        check("file://localhost/data/a.lance", "/data/a.lance");
        let here = std::env::current_dir().unwrap();
        check("data/a.lance", here.join("data/a.lance").to_str().unwrap());
    }

    #[test]
    fn other_uris_are_refused() {
        for uri in [
            "s3://bucket/a.lance",
            "gs://b/a",
            "az://c/a",
            "file+uring:///a",
            "hf://d",
        ] {
            let error = Location::parse(uri).unwrap_err();
            assert!(
                matches!(error, SnapshotError::UnsupportedScheme { .. }),
                "{uri}"
            );
            assert!(error.to_string().contains("local copy"), "{error}");
        }
        for uri in ["", "file://relative/a", "file:///a%2", "file:///a%zz"] {
            let error = Location::parse(uri).unwrap_err();
            assert!(
                matches!(error, SnapshotError::BadUri { .. }),
                "{uri}: {error}"
            );
        }
    }
}
