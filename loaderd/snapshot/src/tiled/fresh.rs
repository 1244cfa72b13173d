//! Whether the tiles of a fragment are of the images beside them.
//!
//! Enters: a version's manifest, and for fragments that were compacted, the transactions that made
//! them. Leaves: the fragments whose tiles may be of other images. Neither images nor tiles are
//! read.
//!
//! Lance never changes a data file: an image is replaced by writing it to another one, in its
//! fragment or in a new one, and what else the row holds is kept or copied, its tile as well. So
//! whoever commits tiles leaves a *mark* a fragment in the metadata of their field: a digest of the
//! names of the files that hold the images and of the one that holds the tiles, and of the fields'
//! numbers. Tiles whose mark is not there are stale, except where a compaction made their fragment
//! out of fragments whose tiles are not. What can't be known any more, because clean-up took the
//! transactions, is stale too.

use std::collections::{HashMap, HashSet};

use lance::Dataset;
use lance::dataset::transaction::Operation;
use lance_core::datatypes::{Field, Schema};
use lance_table::format::Fragment;

/// The key of the field metadata that holds a tiled column's marks, one after the other.
const MARKS_KEY: &str = "loaderd:tiled-from";
/// Characters of a mark.
const MARK_LENGTH: usize = 16;
/// Versions that are searched for the origin of fragments; those that are gone count as well.
const VERSIONS_MAX: usize = 256;

/// What was found out about a tiled column.
#[derive(Default)]
pub(crate) struct Judged {
    /// Fragments that have tiles.
    pub(crate) fragments: usize,
    /// Those of them whose tiles may be of other images.
    pub(crate) stale: HashSet<u32>,
    /// Those whose tiles are known not to be only because the transactions are still there.
    pub(crate) unmarked: usize,
}

/// The numbers of an image column's fields, and of those of its tiled form.
pub(crate) struct Pairing {
    images: Vec<i32>,
    tiles: Vec<i32>,
}

impl Pairing {
    /// Of the columns with these fields.
    pub(crate) fn new(images: &Field, tiles: &Field) -> Self {
        Self {
            images: ids(images),
            tiles: ids(tiles),
        }
    }

    /// The files of a fragment that hold its images and its tiles; none where it has no tiles.
    fn files(&self, fragment: &Fragment) -> Option<(String, String)> {
        let tiles = files_of(fragment, &self.tiles)?;
        Some((files_of(fragment, &self.images).unwrap_or_default(), tiles))
    }

    /// The files that hold both in these fragments.
    fn shared(&self, fragments: &[Fragment]) -> Vec<String> {
        let files = fragments.iter().filter_map(|it| self.files(it));
        let shared = files.filter(|(images, tiles)| images == tiles);
        shared.map(|(images, _)| images).collect()
    }

    fn has(&self, id: i32) -> bool {
        self.images.contains(&id) || self.tiles.contains(&id)
    }

    fn mark(&self, (images, tiles): &(String, String)) -> String {
        let text = format!("{:?} {images} {:?} {tiles}", self.images, self.tiles);
        blake3::hash(text.as_bytes()).to_hex()[..MARK_LENGTH].to_owned()
    }
}

/// The numbers of a field and of those inside of it.
pub(crate) fn ids(field: &Field) -> Vec<i32> {
    let inner = field.children.iter().flat_map(ids);
    std::iter::once(field.id).chain(inner).collect()
}

/// The names of the files with values of one of these fields, of overlays as well.
pub(crate) fn files_of(fragment: &Fragment, ids: &[i32]) -> Option<String> {
    let overlays = fragment.overlays.iter().map(|overlay| &overlay.data_file);
    let files = fragment.files.iter().chain(overlays);
    let files = files.filter(|file| file.fields.iter().any(|id| ids.contains(id)));
    let names: Vec<&str> = files.map(|file| file.path.as_str()).collect();
    (!names.is_empty()).then(|| names.join(" "))
}

/// Writes the marks of the fragments that `is_fresh` says have their own images' tiles, in the place
/// of those before.
pub(crate) fn leave_marks(
    schema: &mut Schema,
    images: i32,
    tiles: i32,
    fragments: &[Fragment],
    is_fresh: impl Fn(&Fragment) -> bool,
) {
    let source = schema.field_by_id(images).cloned();
    let (Some(source), Some(field)) = (source, schema.field_by_id_mut(tiles)) else {
        return;
    };
    let pairing = Pairing::new(&source, field);
    let fresh = fragments.iter().filter(|fragment| is_fresh(fragment));
    let marks = fresh.filter_map(|fragment| Some(pairing.mark(&pairing.files(fragment)?)));
    field.metadata.insert(MARKS_KEY.to_owned(), marks.collect());
}

/// Takes the marks off a field that is no tiled form any more, or is about to be written.
pub(crate) fn remove_marks(field: &mut Field) {
    field.metadata.remove(MARKS_KEY);
}

/// Judges the tiles in field `tiles` by the images in field `images`. Reads transactions only where
/// a fragment without a mark has both in one file, as compaction leaves them.
pub(crate) async fn judge(dataset: &Dataset, images: i32, tiles: i32) -> Judged {
    let mut judged = Judged::default();
    let schema = dataset.schema();
    let (Some(images), Some(tiles)) = (schema.field_by_id(images), schema.field_by_id(tiles))
    else {
        return judged;
    };
    let pairing = Pairing::new(images, tiles);
    let marks = tiles.metadata.get(MARKS_KEY).map_or("", String::as_str);
    let marks = marks.as_bytes().chunks(MARK_LENGTH);
    let marks: HashSet<&[u8]> = marks.collect();
    let is_marked = |files: &_| marks.contains(pairing.mark(files).as_bytes());
    let holds_marked = |fragments: &[Fragment]| {
        let files = fragments.iter().filter_map(|it| pairing.files(it));
        let held: HashSet<String> = files.map(|files| pairing.mark(&files)).collect();
        let mut marks = marks.iter().map(|mark| String::from_utf8_lossy(mark));
        marks.all(|mark| held.contains(mark.as_ref()))
    };
    // By the file that images and tiles share.
    let mut sought: HashMap<String, Vec<u32>> = HashMap::new();
    for fragment in dataset.fragments().iter() {
        let Some(files) = pairing.files(fragment) else {
            continue;
        };
        judged.fragments += 1;
        if is_marked(&files) {
            continue;
        }
        let number = fragment.id as u32;
        judged.stale.insert(number);
        if files.0 == files.1 && !marks.is_empty() {
            sought.insert(files.0, vec![number]);
        }
    }
    if sought.is_empty() {
        return judged;
    }
    let candidates: HashSet<u32> = sought.values().flatten().copied().collect();
    let mut refuted: HashSet<u32> = HashSet::new();
    let newest = dataset.version_id();
    for version in (1..=newest).rev().take(VERSIONS_MAX) {
        sought.retain(|_, fragments| !fragments.iter().all(|it| refuted.contains(it)));
        if sought.is_empty() {
            break;
        }
        // One that was cleaned up, between others that a tag or their youth keeps.
        let Ok(Some(transaction)) = dataset.read_transaction_by_version(version).await else {
            continue;
        };
        let (groups, made) = match &transaction.operation {
            Operation::Rewrite { groups, .. } => (&groups[..], Vec::new()),
            // What is no compaction may have given its rows any image.
            Operation::Append { fragments } | Operation::Overwrite { fragments, .. } => {
                (&[][..], pairing.shared(fragments))
            }
            Operation::Update {
                new_fragments,
                updated_fragments,
                fields_modified,
                ..
            } => {
                let mut made = pairing.shared(new_fragments);
                // Else they only lost rows: their files are older.
                if fields_modified.iter().any(|id| pairing.has(*id as i32)) {
                    made.extend(pairing.shared(updated_fragments));
                }
                (&[][..], made)
            }
            Operation::DataReplacement { replacements } => {
                let made = replacements.iter().map(|it| it.1.path.clone());
                (&[][..], made.collect())
            }
            // As when the marks were left: what was compacted before and has none was stale then.
            Operation::Merge { fragments, .. } if holds_marked(fragments) => break,
            _ => continue,
        };
        refuted.extend(made.iter().filter_map(|it| sought.remove(it)).flatten());
        for group in groups {
            let made = group.new_fragments.iter();
            let made = made.filter_map(|fragment| pairing.files(fragment));
            let into = made.filter_map(|files| sought.remove(&files.0));
            let into: Vec<u32> = into.flatten().collect();
            if into.is_empty() {
                continue;
            }
            for old in &group.old_fragments {
                match pairing.files(old) {
                    // Its rows have no tiles.
                    None => {}
                    Some(files) if is_marked(&files) => {}
                    // Compacted before.
                    Some(files) if files.0 == files.1 => {
                        sought.entry(files.0).or_default().extend(&into);
                    }
                    Some(_) => refuted.extend(&into),
                }
            }
        }
    }
    refuted.extend(sought.values().flatten());
    for fragment in candidates.difference(&refuted) {
        judged.stale.remove(fragment);
        judged.unmarked += 1;
    }
    judged
}

#[cfg(test)]
mod tests;
