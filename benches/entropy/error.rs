//! Why a file has no coefficients here.

/// Why a file has no coefficients here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// A kind of file that is left to libjpeg.
    #[error("not for this decoder: {0}")]
    Kind(&'static str),
    /// What is damaged.
    #[error("damaged: {0}")]
    Damaged(&'static str),
    /// The file ends early.
    #[error("the file ends before its picture does")]
    Truncated,
}
