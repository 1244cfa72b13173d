//! Reading rows through Lance: for what has no extent, and as the reference for what has.
//!
//! Enters: row addresses, in any order. Leaves: values in the same order. Lance sees sorted windows
//! without duplicates, and every answer is counted: a row that is missing is an error.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use lance::Dataset;
use lance::dataset::{ProjectionRequest, TakeBuilder};
use lance_core::ROW_ADDR;

use crate::SnapshotError;
use crate::column::{Column, projection};
use crate::field::{BytesLayout, FixedKind, RaggedKind};
use crate::fixed;
use crate::gather::gather;

/// Rows per call to Lance. It opens every fragment that a call touches, so calls are large; what it
/// holds meanwhile is this many payloads.
const WINDOW_ROWS: usize = 1024;

/// The values of `column` at `addresses`; none for nulls.
pub(crate) async fn bytes(
    dataset: &Arc<Dataset>,
    column: &Column,
    layout: BytesLayout,
    addresses: &[u64],
) -> Result<Vec<Option<Vec<u8>>>, SnapshotError> {
    let order = sorted(addresses);
    let mut values = vec![None; addresses.len()];
    for window in order.chunks(WINDOW_ROWS) {
        let wanted = unique(addresses, window);
        let found: Vec<Option<Vec<u8>>> = match layout {
            BytesLayout::BlobV1 | BytesLayout::BlobV2 => blobs(dataset, column, &wanted).await?,
            BytesLayout::Binary => {
                let array = take(dataset, column, &wanted).await?;
                let array = array.as_binary::<i32>();
                array.iter().map(|v| v.map(<[u8]>::to_vec)).collect()
            }
            BytesLayout::LargeBinary => {
                let array = take(dataset, column, &wanted).await?;
                let array = array.as_binary::<i64>();
                array.iter().map(|v| v.map(<[u8]>::to_vec)).collect()
            }
        };
        scatter(addresses, window, &wanted, |at, from| {
            values[at].clone_from(&found[from]);
        });
    }
    Ok(values)
}

/// The rows of `column` at `addresses`, one after the other in `out`. Nulls of integers are only
/// let through where the map tells them.
pub(crate) async fn fixed(
    dataset: &Arc<Dataset>,
    column: &Column,
    kind: &FixedKind,
    nulls_are_known: bool,
    addresses: &[u64],
    out: &mut [u8],
) -> Result<(), SnapshotError> {
    let row_bytes = kind.row_bytes();
    let order = sorted(addresses);
    let mut rows = Vec::new();
    for window in order.chunks(WINDOW_ROWS) {
        let wanted = unique(addresses, window);
        let array = take(dataset, column, &wanted).await?;
        rows.clear();
        let nulls = fixed::append(&array, kind, &mut rows).unwrap_or_default();
        let count = nulls.iter().filter(|is_null| **is_null).count() as u64;
        if count > 0 && !nulls_are_known && !kind.dtype.is_float() {
            return Err(SnapshotError::Nulls {
                column: column.name.clone(),
                count,
            });
        }
        scatter(addresses, window, &wanted, |at, from| {
            out[at * row_bytes..(at + 1) * row_bytes]
                .copy_from_slice(&rows[from * row_bytes..(from + 1) * row_bytes]);
        });
    }
    Ok(())
}

/// The values of `column` at `addresses`; none for nulls.
pub(crate) async fn variable(
    dataset: &Arc<Dataset>,
    column: &Column,
    kind: &RaggedKind,
    addresses: &[u64],
) -> Result<Vec<Option<Vec<u8>>>, SnapshotError> {
    let order = sorted(addresses);
    let mut values = vec![None; addresses.len()];
    for window in order.chunks(WINDOW_ROWS) {
        let wanted = unique(addresses, window);
        let array = take(dataset, column, &wanted).await?;
        let found = gather(&array, kind).ok_or_else(|| SnapshotError::ValueTooLong {
            column: column.name.clone(),
        })?;
        if found.holes > 0 {
            return Err(SnapshotError::list_nulls(&column.name, kind, found.holes));
        }
        scatter(addresses, window, &wanted, |at, from| {
            values[at].clone_from(&found.values[from]);
        });
    }
    Ok(values)
}

async fn blobs(
    dataset: &Arc<Dataset>,
    column: &Column,
    addresses: &[u64],
) -> Result<Vec<Option<Vec<u8>>>, SnapshotError> {
    let name = &column.name;
    let failed = |error| SnapshotError::lance(format!("read the blobs of {name}"), error);
    let found = dataset
        .read_blobs(name)
        .map_err(failed)?
        .with_row_addresses(addresses)
        .execute()
        .await
        .map_err(failed)?;
    let answered = found.iter().map(|blob| blob.row_address);
    counted(dataset, column, addresses, answered)?;
    Ok(found
        .into_iter()
        .map(|blob| blob.data.map(|data| data.to_vec()))
        .collect())
}

async fn take(
    dataset: &Arc<Dataset>,
    column: &Column,
    addresses: &[u64],
) -> Result<ArrayRef, SnapshotError> {
    let name = &column.name;
    let failed = |error| SnapshotError::lance(format!("take rows of {name}"), error);
    let schema = projection(dataset.schema(), [column].into_iter());
    let projection = ProjectionRequest::from_schema(schema)
        .into_projection_plan(dataset.clone())
        .map_err(failed)?;
    let batch =
        TakeBuilder::try_new_from_addresses(dataset.clone(), addresses.to_vec(), projection.into())
            .map_err(failed)?
            // Without it, Lance leaves out deleted rows in silence.
            .with_row_address(true)
            .execute()
            .await
            .map_err(failed)?;
    let answered = batch[ROW_ADDR].as_primitive::<UInt64Type>();
    counted(
        dataset,
        column,
        addresses,
        answered.values().iter().copied(),
    )?;
    Ok(column.array(&batch))
}

/// Fails unless Lance answered exactly what was asked, in order.
fn counted(
    dataset: &Dataset,
    column: &Column,
    wanted: &[u64],
    answered: impl Iterator<Item = u64>,
) -> Result<(), SnapshotError> {
    let answered: Vec<u64> = answered.collect();
    if answered == wanted {
        return Ok(());
    }
    let found = wanted.iter().filter(|row| answered.contains(row)).count();
    Err(SnapshotError::RowsMissing {
        column: column.name.clone(),
        expected: wanted.len(),
        found,
        version: dataset.version_id(),
    })
}

/// Positions of `addresses` in the addresses' order.
fn sorted(addresses: &[u64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..addresses.len()).collect();
    order.sort_unstable_by_key(|&at| addresses[at]);
    order
}

/// The addresses of a sorted window, each once.
fn unique(addresses: &[u64], window: &[usize]) -> Vec<u64> {
    let mut wanted: Vec<u64> = window.iter().map(|&at| addresses[at]).collect();
    wanted.dedup();
    wanted
}

/// Calls `put(position, index in wanted)` for every position of a sorted window.
fn scatter(addresses: &[u64], window: &[usize], wanted: &[u64], mut put: impl FnMut(usize, usize)) {
    let mut from = 0;
    for &at in window {
        while wanted[from] != addresses[at] {
            from += 1;
        }
        put(at, from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_put_values_back_in_order() {
        let addresses = [7_u64, 3, 7, 1, 3, 9];
        let order = sorted(&addresses);
        let mut out = [0_u64; 6];
        for window in order.chunks(4) {
            let wanted = unique(&addresses, window);
            assert!(wanted.is_sorted_by(|a, b| a < b), "{wanted:?}");
            scatter(&addresses, window, &wanted, |at, from| {
                out[at] = wanted[from]
            });
        }
        assert_eq!(out, addresses);
    }
}
