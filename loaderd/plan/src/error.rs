//! What can be wrong with a plan or a cursor, with the numbers that show it.
//!
//! Enters: facts found by `steps` and `cursor`. Leaves: messages that name the way
//! out. It never describes our own bugs: those are assertions.

use crate::fingerprint::Difference;

/// Why a plan cannot be made, or a cursor not be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The selection holds no row.
    #[error(
        "there is no row to deliver: the dataset or its selection is empty; check the filter and the version"
    )]
    NoRows,

    /// A size that counts something is zero.
    #[error("{name} is 0; it must be at least 1")]
    Zero {
        /// The setting, as the user spells it.
        name: &'static str,
    },

    /// `drop_last` leaves an epoch without any step.
    #[error(
        "drop_last leaves no step: {rows} rows are fewer than one global batch of {global_batch_size} \
         (batch_size {batch_size} × world_size {world_size}); lower batch_size, or set drop_last=False \
         (in JAX: partial=\"pad\")"
    )]
    NoStep {
        /// Rows in the selection.
        rows: u64,
        /// Rows a rank takes per step.
        batch_size: u32,
        /// Number of ranks.
        world_size: u32,
        /// Rows all ranks together take per step.
        global_batch_size: u64,
    },

    /// A position lies between two steps.
    #[error(
        "no step begins at position {position}: steps begin every {global_batch_size} rows \
         (batch_size × world_size); use a global batch size that divides {position}"
    )]
    BetweenSteps {
        /// Rows delivered in the epoch by all ranks.
        position: u64,
        /// Rows all ranks together take per step.
        global_batch_size: u64,
    },

    /// A position lies behind the last step.
    #[error(
        "position {position} lies beyond the epoch, which ends after {end} rows; start a new epoch"
    )]
    BeyondEpoch {
        /// Rows delivered in the epoch by all ranks.
        position: u64,
        /// Rows that all ranks together take in one epoch.
        end: u64,
    },

    /// A cursor was written by a loader that uses another format.
    #[error(
        "cursor has format {found}, this loader reads format {expected}; resume with the loader that wrote it"
    )]
    CursorFormat {
        /// The format number in the cursor.
        found: u32,
        /// The format number that this crate reads and writes.
        expected: u32,
    },

    /// A cursor states something that no loader writes.
    #[error("cursor is damaged: {field} is 0; take an older checkpoint, or start a new epoch")]
    CursorDamaged {
        /// The field of the cursor.
        field: &'static str,
    },

    /// A cursor was made with another global batch size, and stands where no step
    /// of today's begins.
    #[error(
        "the checkpoint stands after {position} rows, delivered in global batches of {then}; with global batches \
         of {now} (batch_size × world_size) no step begins there; use a global batch size of {then}, or another \
         that divides {position}"
    )]
    CursorBatch {
        /// Rows delivered in the epoch by all ranks.
        position: u64,
        /// Global batch size in the cursor.
        then: u64,
        /// Global batch size today.
        now: u64,
    },

    /// A cursor stands behind the end of today's epoch.
    #[error(
        "the checkpoint stands after {position} of {then} rows, but an epoch ends after {now} rows today; \
         open the version and the selection that it was made with, or start a new epoch"
    )]
    CursorRows {
        /// Rows delivered in the epoch by all ranks.
        position: u64,
        /// Rows of the selection in the cursor.
        then: u64,
        /// Rows that all ranks together take in one epoch today.
        now: u64,
    },

    /// A cursor belongs to another plan.
    #[error("the checkpoint belongs to another plan:\n{}\n\
             go back to those values, or allow the change (allow_changed=True): rows of the interrupted epoch may \
             then repeat or be missed", list(.differences))]
    Changed {
        /// What differs, in the order of the fingerprint's fields; never empty.
        differences: Vec<Difference>,
    },
}

/// One indented line per difference.
fn list(differences: &[Difference]) -> String {
    let lines: Vec<String> = differences.iter().map(|d| format!("  {d}")).collect();
    lines.join("\n")
}
