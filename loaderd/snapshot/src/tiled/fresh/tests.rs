//! What is known of compacted tiles, and what it costs to know it.

use std::sync::Arc;
use std::time::SystemTime;

use arrow_array::{ArrayRef, Int64Array, LargeBinaryArray, RecordBatch, RecordBatchIterator};
use lance::dataset::cleanup::CleanupPolicyBuilder;
use lance::dataset::optimize::{CompactionOptions, compact_files};
use lance::dataset::transaction::{
    DataReplacementGroup, Operation, TransactionBuilder, UpdateMode,
};
use lance::dataset::{CommitBuilder, WriteMode, WriteParams};
use lance_file::version::LanceFileVersion;
use tempfile::TempDir;

use super::*;
use crate::runtime::wait;
use crate::tile::{Tile, TileOptions, tile_column};
use crate::{Protect, Snapshot, SnapshotRequest, VersionRef};

fn block_on<T: Send>(future: impl Future<Output = lance::Result<T>> + Send) -> T {
    wait(async { Ok(future.await.unwrap()) }).unwrap()
}

/// A dataset of images and their tiles, in one large fragment and two small ones.
struct Tiled {
    folder: TempDir,
    uri: String,
}

impl Tiled {
    /// After the rows were written, this many versions are made before they are tiled.
    fn new(versions: i64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let uri = folder.path().join("data.lance");
        let uri = uri.to_str().unwrap().to_owned();
        let tiled = Self { folder, uri };
        for ids in [0..40, 40..50, 50..60] {
            let images = ids.clone().map(|id| vec![id as u8; 100]);
            let images = LargeBinaryArray::from_iter_values(images);
            let columns = [
                (
                    "id",
                    Arc::new(Int64Array::from_iter_values(ids)) as ArrayRef,
                ),
                ("image", Arc::new(images) as ArrayRef),
            ];
            let rows = RecordBatch::try_from_iter(columns).unwrap();
            let reader = RecordBatchIterator::new([Ok(rows.clone())], rows.schema());
            let params = WriteParams {
                mode: match tiled.folder.path().join("data.lance").exists() {
                    true => WriteMode::Append,
                    false => WriteMode::Create,
                },
                data_storage_version: Some(LanceFileVersion::V2_1),
                ..WriteParams::default()
            };
            block_on(Dataset::write(reader, &tiled.uri, Some(params)));
        }
        tiled.delete(0..versions);
        let options = TileOptions {
            column: "image".into(),
            into: None,
            drop_original: None,
            settings: String::new(),
            state_dir: tiled.folder.path().join("state"),
        };
        let mut tile = |images: &[Vec<u8>]| {
            let tiles = images.iter().map(|image| Tile::Tiled(image.clone()));
            Ok(tiles.collect())
        };
        tile_column(&tiled.uri, &options, &mut |_| {}, &mut tile).unwrap();
        tiled
    }

    fn dataset(&self) -> Dataset {
        block_on(Dataset::open(&self.uri))
    }

    /// Makes as many versions.
    fn delete(&self, ids: std::ops::Range<i64>) {
        let mut dataset = self.dataset();
        for id in ids {
            block_on(async { dataset.delete(&format!("id = {id}")).await.map(|_| ()) });
        }
    }

    /// The two small fragments into one.
    fn compact(&self) -> Fragment {
        let options = CompactionOptions {
            target_rows_per_fragment: 20,
            materialize_deletions: false,
            ..CompactionOptions::default()
        };
        let mut dataset = self.dataset();
        block_on(async { compact_files(&mut dataset, options, None).await });
        assert_eq!(dataset.fragments().len(), 2);
        dataset.fragments().last().unwrap().clone()
    }

    fn clean_up(&self) {
        let policy = CleanupPolicyBuilder::default()
            .before_timestamp(SystemTime::now().into())
            .error_if_tagged_old_versions(false)
            .build();
        let dataset = self.dataset();
        block_on(async { dataset.cleanup_with_policy(policy).await.map(|_| ()) });
    }

    fn tiled_rows(&self) -> u64 {
        let snapshot = Snapshot::open(SnapshotRequest {
            uri: self.uri.clone(),
            version: VersionRef::Latest,
            filter: None,
            bytes_columns: vec!["image".into()],
            tiled_columns: vec!["image".into()],
            fixed_columns: Vec::new(),
            variable_columns: Vec::new(),
            protect: Protect::None,
            run: "test".into(),
            cache_dir: self.folder.path().join("cache"),
            cache_bytes_max: 1 << 30,
        });
        snapshot.unwrap().tiled(0).unwrap().1
    }
}

fn field(dataset: &Dataset, name: &str) -> i32 {
    dataset.schema().field(name).unwrap().id
}

fn judged(dataset: &Dataset) -> Judged {
    let (images, tiles) = (field(dataset, "image"), field(dataset, "image_tiled"));
    wait(async { Ok(judge(dataset, images, tiles).await) }).unwrap()
}

#[test]
fn a_compaction_is_found_behind_versions_that_are_gone() {
    let tiled = Tiled::new(0);
    tiled.compact();
    let dataset = tiled.dataset();
    let version = dataset.version_id();
    block_on(async { dataset.tags().create("held", version).await });
    tiled.delete(0..3);
    tiled.clean_up();
    let found = judged(&tiled.dataset());
    assert_eq!((found.stale.len(), found.unmarked), (0, 1));
    assert_eq!(tiled.tiled_rows(), 57);
    // The same version, of which less is known: what was mapped before does not stand for it.
    block_on(async { dataset.tags().delete("held").await });
    tiled.clean_up();
    assert_eq!(judged(&tiled.dataset()).stale.len(), 1);
    assert_eq!(tiled.tiled_rows(), 37);
}

/// A file that is no compaction's holds a fragment's images and tiles.
#[test]
fn the_search_ends_where_nothing_can_be_found() {
    type Replace = fn(&Dataset, Fragment) -> Operation;
    // With the reads that suffice: some three a version, and four versions from the tiles on.
    let replacing: [(&str, u64, Replace); 3] = [
        ("replacement", 5, |_, mut fragment| {
            let file = fragment.files.remove(0);
            Operation::DataReplacement {
                replacements: vec![DataReplacementGroup(fragment.id, file)],
            }
        }),
        ("update", 5, |dataset, fragment| {
            let fields = ["image", "image_tiled"].map(|name| field(dataset, name) as u32);
            Operation::Update {
                removed_fragment_ids: Vec::new(),
                updated_fragments: vec![fragment],
                new_fragments: Vec::new(),
                fields_modified: fields.to_vec(),
                compacted_sstables: Vec::new(),
                fields_for_preserving_frag_bitmap: Vec::new(),
                update_mode: Some(UpdateMode::RewriteColumns),
                inserted_rows_filter: None,
                updated_fragment_offsets: None,
            }
        }),
        ("merge", 20, |dataset, fragment| Operation::Merge {
            fragments: vec![dataset.fragments()[0].clone(), fragment],
            schema: dataset.schema().clone(),
            preserves_nullability: true,
        }),
    ];
    for (name, reads_max, replace) in replacing {
        let tiled = Tiled::new(30);
        let mut fragment = tiled.compact();
        let dataset = tiled.dataset();
        let found = judged(&dataset);
        assert_eq!((found.stale.len(), found.unmarked), (0, 1), "{name}");
        let data = tiled.folder.path().join("data.lance/data");
        let other = format!("other-{}", fragment.files[0].path);
        std::fs::copy(data.join(&fragment.files[0].path), data.join(&other)).unwrap();
        fragment.files[0].path = other;
        let number = fragment.id as u32;
        let operation = replace(&dataset, fragment);
        let transaction = TransactionBuilder::new(dataset.version_id(), operation).build();
        let committing = CommitBuilder::new(Arc::new(dataset));
        block_on(async { committing.execute(transaction).await.map(|_| ()) });

        let dataset = tiled.dataset();
        let store = block_on(async { dataset.object_store(None).await });
        store.io_stats_incremental();
        let found = judged(&dataset);
        let reads = store.io_stats_incremental().read_iops;
        assert_eq!(found.stale, HashSet::from([number]), "{name}");
        assert!((1..=reads_max).contains(&reads), "{name}: {reads} reads");
    }
}
