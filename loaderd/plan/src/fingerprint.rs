//! Fingerprint: everything that decides what a position means, in words that a
//! person can compare.
//!
//! Enters: the facts of a plan, as the daemon found them. Leaves: a short hash, and
//! the list of differences between two plans. It never judges whether a difference
//! matters: that is `cursor`'s.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a plan rests on beside seed, batch size and world size. A few hundred bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Identity of the dataset's manifest, hexadecimal.
    pub dataset: String,
    /// Where the dataset was opened. Two plans that differ here alone are the same: a
    /// dataset may move.
    pub uri: String,
    /// The dataset's version.
    pub version: u64,
    /// Rows in the selection: the plan's number of positions.
    pub rows: u64,
    /// Hash of the selection's row addresses, hexadecimal.
    pub selection: String,
    /// The SQL filter that made the selection, if one did.
    pub filter: Option<String>,
    /// The columns delivered, in their order.
    pub columns: Vec<String>,
    /// The transforms, as canonical JSON: equal transforms must give equal text.
    pub transform: String,
    /// Whether epochs are shuffled.
    pub shuffle: bool,
    /// Whether rows that do not fill a global batch are left out.
    pub drop_last: bool,
}

/// One thing that two plans do not have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The field of [`Fingerprint`], or `seed`.
    pub field: &'static str,
    /// Its value in the older plan, for people to read.
    pub then: String,
    /// Its value today, for people to read.
    pub now: String,
}

impl Fingerprint {
    /// 32 hexadecimal digits that name this plan: the first half of a BLAKE3 hash over
    /// all fields but `uri`. The same on every machine and in every later release.
    pub fn hash(&self) -> String {
        let Fingerprint {
            dataset,
            uri: _,
            version,
            rows,
            selection,
            filter,
            columns,
            transform,
            shuffle,
            drop_last,
        } = self;
        let mut fields = Fields::new();
        fields.text(dataset);
        fields.number(*version);
        fields.number(*rows);
        fields.text(selection);
        fields.number(u64::from(filter.is_some()));
        fields.text(filter.as_deref().unwrap_or_default());
        fields.number(columns.len() as u64);
        for column in columns {
            fields.text(column);
        }
        fields.text(transform);
        fields.number(u64::from(*shuffle));
        fields.number(u64::from(*drop_last));
        fields.finish()
    }

    /// What differs between this plan, the older one, and `other`, in the order of the
    /// fields. Empty where they mean the same, so also where only `uri` differs.
    pub fn diff(&self, other: &Fingerprint) -> Vec<Difference> {
        let dataset = |f: &Fingerprint| format!("{} ({})", f.dataset, f.uri);
        let mut differences = Vec::new();
        let mut compare = |field, equal: bool, then: String, now: String| {
            if !equal {
                differences.push(Difference { field, then, now });
            }
        };
        // The dataset's name alone would tell a person nothing; the URI goes with it.
        compare(
            "dataset",
            self.dataset == other.dataset,
            dataset(self),
            dataset(other),
        );
        compare_values(&mut compare, "version", &self.version, &other.version);
        compare_values(&mut compare, "rows", &self.rows, &other.rows);
        compare_values(&mut compare, "selection", &self.selection, &other.selection);
        compare(
            "filter",
            self.filter == other.filter,
            self.filter_words(),
            other.filter_words(),
        );
        compare(
            "columns",
            self.columns == other.columns,
            self.columns.join(", "),
            other.columns.join(", "),
        );
        compare_values(&mut compare, "transform", &self.transform, &other.transform);
        compare_values(&mut compare, "shuffle", &self.shuffle, &other.shuffle);
        compare_values(&mut compare, "drop_last", &self.drop_last, &other.drop_last);
        differences
    }

    fn filter_words(&self) -> String {
        self.filter.clone().unwrap_or_else(|| "none".to_string())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} then, {} now", self.field, self.then, self.now)
    }
}

fn compare_values<T: PartialEq + ToString>(
    compare: &mut impl FnMut(&'static str, bool, String, String),
    field: &'static str,
    then: &T,
    now: &T,
) {
    compare(field, then == now, then.to_string(), now.to_string());
}

/// Fields on their way into a hash. Each text carries its length, so no two lists of
/// fields look alike.
struct Fields(blake3::Hasher);

impl Fields {
    fn new() -> Fields {
        Fields(blake3::Hasher::new_derive_key(
            "loaderd plan fingerprint, format 1",
        ))
    }

    fn number(&mut self, value: u64) {
        self.0.update(&value.to_le_bytes());
    }

    fn text(&mut self, value: &str) {
        self.number(value.len() as u64);
        self.0.update(value.as_bytes());
    }

    fn finish(self) -> String {
        self.0.finalize().to_hex()[..32].to_string()
    }
}

#[cfg(test)]
pub(crate) fn example() -> Fingerprint {
    Fingerprint {
        dataset: "5f2c".to_string(),
        uri: "/data/photos.lance".to_string(),
        version: 3,
        rows: 1000,
        selection: "77aa".to_string(),
        filter: Some("split = 'train'".to_string()),
        columns: vec!["image".to_string(), "label".to_string()],
        transform: r#"{"image":[["CenterCrop",224]]}"#.to_string(),
        shuffle: true,
        drop_last: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Fingerprint);

    /// One change per field that matters, by the field's name.
    const CHANGES: [(&str, Change); 9] = [
        ("dataset", |f| f.dataset = "5f2d".to_string()),
        ("version", |f| f.version = 4),
        ("rows", |f| f.rows = 1001),
        ("selection", |f| f.selection = "77ab".to_string()),
        ("filter", |f| f.filter = None),
        ("columns", |f| f.columns.reverse()),
        ("transform", |f| f.transform = "{}".to_string()),
        ("shuffle", |f| f.shuffle = false),
        ("drop_last", |f| f.drop_last = true),
    ];

    #[test]
    fn every_field_but_the_uri_matters() {
        let then = example();
        for (field, change) in CHANGES {
            let mut now = example();
            change(&mut now);
            assert_ne!(now.hash(), then.hash(), "{field}");
            let differences = then.diff(&now);
            assert_eq!(differences.len(), 1, "{field}");
            assert_eq!(differences[0].field, field);
            assert_ne!(differences[0].then, differences[0].now);
        }
    }

    #[test]
    fn a_dataset_may_move() {
        let mut now = example();
        now.uri = "/mnt/photos.lance".to_string();
        assert_eq!(now.hash(), example().hash());
        assert_eq!(example().diff(&now), vec![]);
    }

    #[test]
    fn all_differences_are_listed_in_order() {
        let mut now = example();
        for (_, change) in CHANGES {
            change(&mut now);
        }
        let fields: Vec<&str> = example().diff(&now).iter().map(|d| d.field).collect();
        assert_eq!(fields, CHANGES.map(|(field, _)| field));
    }

    #[test]
    fn differences_read_well() {
        let check = |change: Change, expected: &str| {
            let mut now = example();
            change(&mut now);
            assert_eq!(example().diff(&now)[0].to_string(), expected);
        };
        check(|f| f.version = 4, "version: 3 then, 4 now");
        check(
            |f| f.filter = None,
            "filter: split = 'train' then, none now",
        );
        check(
            |f| f.columns.truncate(1),
            "columns: image, label then, image now",
        );
        check(
            |f| f.dataset = "5f2d".to_string(),
            "dataset: 5f2c (/data/photos.lance) then, 5f2d (/data/photos.lance) now",
        );
    }

    #[test]
    fn text_cannot_slip_from_one_field_into_the_next() {
        let mut joined = example();
        joined.columns = vec!["image, label".to_string()];
        assert_ne!(joined.hash(), example().hash());
        let mut empty = example();
        empty.filter = Some(String::new());
        let mut none = example();
        none.filter = None;
        assert_ne!(empty.hash(), none.hash());
    }

    #[test]
    fn the_hash_never_changes() {
        assert_eq!(example().hash(), "7dcdd539a8fa83fc92067860c689baf5");
    }
}
