//! The ZeroMQ feed: what has many listeners.
//!
//! Enters: records. Leaves: two-part PUB messages, topic and JSON, on an `ipc://`
//! endpoint in the runtime folder. A listener that is slow or absent costs nothing:
//! PUB sockets drop.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest `ipc://` path: `sun_path` of a Unix socket less its NUL.
const PATH_MAX: usize = 107;

/// Why the feed can't be had.
#[derive(Debug, thiserror::Error)]
#[error("feed {path}: {cause}", path = path.display())]
pub struct FeedError {
    /// The socket's path.
    pub path: PathBuf,
    /// ZeroMQ's words.
    pub cause: String,
}

/// The feed's socket beside the daemon's.
pub fn path_beside(socket: &Path) -> PathBuf {
    socket.with_extension("feed")
}

/// The publishing end. Belongs to one thread, as ZeroMQ's sockets do.
pub struct Feed {
    socket: zmq::Socket,
    path: PathBuf,
}

impl Feed {
    /// Binds the feed, in place of a stale one: the caller holds the daemon's socket.
    pub fn bind(path: &Path) -> Result<Feed, FeedError> {
        let failed = |cause: String| FeedError {
            path: path.into(),
            cause,
        };
        if path.as_os_str().len() > PATH_MAX {
            return Err(failed(format!("the path is longer than {PATH_MAX} bytes")));
        }
        let socket = zmq::Context::new()
            .socket(zmq::PUB)
            .map_err(|error| failed(error.to_string()))?;
        let bind = || {
            socket.set_linger(0)?;
            socket.bind(&format!("ipc://{}", path.display()))
        };
        bind().map_err(|error| failed(error.to_string()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(|error| failed(error.to_string()))?;
        Ok(Feed {
            socket,
            path: path.into(),
        })
    }

    /// Sends a record to whoever listens; never blocks.
    pub fn send(&self, topic: &str, record: &impl Serialize) {
        if let Ok(body) = serde_json::to_vec(record) {
            // A PUB socket drops instead of blocking; nobody listening is no error.
            let _ = self
                .socket
                .send_multipart([topic.as_bytes(), &body], zmq::DONTWAIT);
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The listening end.
pub struct Listener {
    socket: zmq::Socket,
}

impl Listener {
    /// Connects to the feed at `path`, whether or not a daemon is there yet.
    pub fn connect(path: &Path, topic: &str) -> Result<Listener, FeedError> {
        let connect = || {
            let socket = zmq::Context::new().socket(zmq::SUB)?;
            socket.set_subscribe(topic.as_bytes())?;
            socket.connect(&format!("ipc://{}", path.display()))?;
            Ok(Listener { socket })
        };
        connect().map_err(|error: zmq::Error| FeedError {
            path: path.into(),
            cause: error.to_string(),
        })
    }

    /// The next record, or `None` after `timeout_ms`. Records that can't be read are skipped.
    pub fn next<T: DeserializeOwned>(&self, timeout_ms: i64) -> Option<T> {
        if self.socket.poll(zmq::POLLIN, timeout_ms).ok()? == 0 {
            return None;
        }
        let parts = self.socket.recv_multipart(zmq::DONTWAIT).ok()?;
        serde_json::from_slice(parts.get(1)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_arrives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("feed");
        let listener = Listener::connect(&path, "step").unwrap();
        let feed = Feed::bind(&path).unwrap();
        // A subscription takes a moment to reach the publisher, so send until heard.
        let heard = (0..500).find_map(|n| {
            feed.send("other", &"not for us");
            feed.send("step", &n);
            listener.next::<u32>(10)
        });
        assert!(heard.is_some());
        drop(feed);
        assert!(!path.exists());
    }
}
