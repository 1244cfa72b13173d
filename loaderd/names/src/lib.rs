//! Names that were asked for and are not there: what was meant, and what there is.
//!
//! Enters: a name, and the names that there are. Leaves: words for an error message, of bounded
//! length however many names there are. It looks nothing up, and knows no dataset.

/// Names that a message lists at most.
const SHOWN_MAX: usize = 20;

/// That a dataset has no column `wanted`, as one sentence: what may have been meant, and the columns
/// there are, the 20 nearest to it or else the first 20 of many. `made` are names that can be asked
/// for as well; they are suggested, and not listed. Fields of structs are columns named
/// `outer.inner`: whoever asks for `outer` is told those.
pub fn no_column<S: AsRef<str>>(uri: &str, wanted: &str, columns: &[S], made: &[&str]) -> String {
    let columns: Vec<&str> = columns.iter().map(AsRef::as_ref).collect();
    let is_inner = |name: &&str| {
        let rest = name.strip_prefix(wanted);
        rest.is_some_and(|rest| rest.starts_with('.'))
    };
    let inner: Vec<&str> = columns.iter().copied().filter(is_inner).collect();
    if !inner.is_empty() {
        return format!(
            "{uri} has no column {wanted:?} of its own: ask for its fields {}",
            listed(&inner)
        );
    }
    let all: Vec<&str> = columns.iter().chain(made).copied().collect();
    let near = nearest(wanted, &all);
    let hint = near.map_or_else(String::new, |near| format!(" (did you mean {near:?}?)"));
    let have = match near {
        Some(_) if columns.len() > SHOWN_MAX => {
            let mut sorted = columns.clone();
            sorted.sort_by_cached_key(|name| Distance::between(wanted, name).rank());
            format!(
                "the nearest of its {} columns are {}",
                columns.len(),
                sorted[..SHOWN_MAX].join(", ")
            )
        }
        _ => format!("its columns are {}", listed(&columns)),
    };
    format!("{uri} has no column {wanted:?}{hint}: {have}")
}

/// `names` as a list in words, shortened after twenty.
pub fn listed<S: AsRef<str>>(names: &[S]) -> String {
    let shown: Vec<&str> = names.iter().take(SHOWN_MAX).map(AsRef::as_ref).collect();
    match names.len().saturating_sub(SHOWN_MAX) {
        _ if shown.is_empty() => "none".to_owned(),
        0 => shown.join(", "),
        more => format!("{}, and {more} more", shown.join(", ")),
    }
}

/// The name nearest to `wanted`, if one is near enough to be what was meant; the first of equals.
pub fn nearest<'a, S: AsRef<str>>(wanted: &str, names: &'a [S]) -> Option<&'a str> {
    let names = names.iter().map(AsRef::as_ref);
    let near = names
        .map(|name| (Distance::between(wanted, name), name))
        .min_by_key(|(distance, _)| distance.rank())?;
    (near.0.edits <= 1 + near.0.length / 3).then_some(near.1)
}

/// How far a name is from the one wanted.
struct Distance {
    edits: usize,
    /// Of what was compared, in characters.
    length: usize,
    /// As many of the name's first or last parts were compared as are wanted.
    is_part: bool,
}

impl Distance {
    fn between(wanted: &str, name: &str) -> Distance {
        let (wanted, name) = (wanted.to_lowercase(), name.to_lowercase());
        let parts = wanted.split('.').count();
        let to = |compared: &str| Distance {
            edits: edits(&wanted, compared),
            length: compared.chars().count(),
            is_part: compared.len() < name.len(),
        };
        let first = name.match_indices('.').nth(parts - 1);
        let last = name.rmatch_indices('.').nth(parts - 1);
        let first = first.map(|(dot, _)| to(&name[..dot]));
        let last = last.map(|(dot, _)| to(&name[dot + 1..]));
        let all = [Some(to(&name)), first, last].into_iter().flatten();
        all.min_by_key(Distance::rank).expect("the whole name")
    }

    /// Whole names go before parts that are as near.
    fn rank(&self) -> (usize, bool) {
        (self.edits, self.is_part)
    }
}

/// Levenshtein distance in characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_is_near() {
        let check = |wanted: &str, names: &[&str], expected: Option<&str>| {
            assert_eq!(nearest(wanted, names), expected, "{wanted}");
        };
        check("imgae", &["image", "label"], Some("image"));
        check("Image", &["label", "image"], Some("image"));
        check("caption", &["image", "label"], None);
        check("x", &[], None);
        check("", &["label"], None);
        // Parts of nested names.
        let nested = ["label", "image.bytes", "meta.place.x"];
        check("bytes", &nested, Some("image.bytes"));
        check("imgae", &nested, Some("image.bytes"));
        check("imgae.bytes", &nested, Some("image.bytes"));
        check("place.x", &nested, Some("meta.place.x"));
        check("meta.plase", &nested, Some("meta.place.x"));
    }

    #[test]
    fn long_lists_are_shortened() {
        let names: Vec<String> = (0..25).map(|i| i.to_string()).collect();
        assert!(listed(&names).ends_with("19, and 5 more"));
        assert_eq!(listed(&names[..20]).matches(", ").count(), 19);
        assert_eq!(listed::<&str>(&[]), "none");
    }

    #[test]
    fn a_missing_column_is_told_with_what_there_is() {
        let check = |wanted: &str, columns: &[&str], expected: &str| {
            assert_eq!(no_column("d.lance", wanted, columns, &["_rowid"]), expected);
        };
        check(
            "lable",
            &["image", "label"],
            "d.lance has no column \"lable\" (did you mean \"label\"?): its columns are image, label",
        );
        check(
            "row_id",
            &["image"],
            "d.lance has no column \"row_id\" (did you mean \"_rowid\"?): its columns are image",
        );
        check(
            "image",
            &["image.bytes", "image.path", "images"],
            "d.lance has no column \"image\" of its own: ask for its fields image.bytes, image.path",
        );
        check(
            "x",
            &[],
            "d.lance has no column \"x\": its columns are none",
        );
    }

    #[test]
    fn of_many_columns_the_nearest_are_listed() {
        let names: Vec<String> = (0..300).map(|i| format!("feature_{i}")).collect();
        let text = no_column("d.lance", "featur_217", &names, &[]);
        assert!(text.contains("did you mean \"feature_217\"?"), "{text}");
        let (_, have) = text.split_once("of its 300 columns are ").unwrap();
        assert!(have.starts_with("feature_217, "), "{text}");
        assert_eq!(have.split(", ").count(), SHOWN_MAX);
        // Nothing is near: the first ones.
        let text = no_column("d.lance", "caption", &names, &[]);
        assert!(!text.contains("did you mean"), "{text}");
        assert!(text.contains("are feature_0, feature_1, "), "{text}");
        assert!(text.ends_with("and 280 more"), "{text}");
    }
}
