//! What there is where no dataset is.
//!
//! Enters: a path. Leaves: nothing, where Lance may find a dataset there, else what there is
//! instead and the way out, in words. It looks at names in folders, and reads no file: asked for
//! the versions of what is no folder, Lance would try for seconds.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use loaderd_names::listed;

/// Entries of a folder that are looked at.
const ENTRIES_MAX: usize = 1000;
/// Ends of names of images, in lower case.
const IMAGES: [&str; 5] = ["jpg", "jpeg", "png", "webp", "gif"];

/// Why there can't be a dataset at `path`; none where there may be one.
pub(crate) fn reason(path: &Path) -> Option<String> {
    let is_folder = match fs::metadata(path) {
        Ok(found) => found.is_dir(),
        Err(error) => return Some(error.to_string().to_lowercase()),
    };
    let versions = fs::metadata(path.join("_versions"));
    if is_folder && !versions.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return None;
    }
    if let Some(dataset) = path.ancestors().skip(1).find(|it| is_dataset(it)) {
        let what = if is_folder { "a folder" } else { "a file" };
        let dataset = dataset.display();
        return Some(format!("it is {what} of the dataset {dataset}: name that"));
    }
    Some(match is_folder {
        true => of_folder(path),
        false => of_file(path),
    })
}

fn of_file(path: &Path) -> String {
    let is = "it is a file, and a dataset is a folder";
    let ingest = "`loaderd ingest FOLDER NEW.lance` makes one of a folder of images";
    match ending(path).as_deref() {
        Some("parquet" | "arrow" | "csv") => format!(
            "{is}: lance.write_dataset(pyarrow.dataset.dataset({:?}, format={:?}), \"NEW.lance\") makes one in Python",
            path.display().to_string(),
            ending(path).unwrap_or_default(),
        ),
        _ => format!("{is}: {ingest}"),
    }
}

fn of_folder(path: &Path) -> String {
    let is = "the folder has no _versions with a manifest";
    let entries = || fs::read_dir(path).into_iter().flatten().flatten();
    let entries = || entries().take(ENTRIES_MAX).map(|entry| entry.path());
    let datasets = entries().filter(|entry| is_dataset(entry));
    let name = |entry: &Path| {
        entry
            .file_name()
            .map(OsStr::to_string_lossy)
            .map(String::from)
    };
    let mut datasets: Vec<String> = datasets.filter_map(|entry| name(&entry)).collect();
    datasets.sort_unstable();
    if !datasets.is_empty() {
        return format!(
            "{is}: name one of the datasets in it, {}",
            listed(&datasets)
        );
    }
    let mut files = entries().flat_map(|entry| match entry.is_dir() {
        true => fs::read_dir(entry)
            .into_iter()
            .flatten()
            .flatten()
            .take(10)
            .map(|it| it.path())
            .collect(),
        false => vec![entry],
    });
    let is_image = |file: &Path| ending(file).is_some_and(|end| IMAGES.contains(&&*end));
    if files.any(|file| is_image(&file)) {
        let path = path.display();
        return format!(
            "{is}: it holds images, of which `loaderd ingest {path} NEW.lance` makes a dataset"
        );
    }
    is.to_owned()
}

fn is_dataset(path: &Path) -> bool {
    path.join("_versions").is_dir()
}

fn ending(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_told_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        for file in [
            "sets/a.lance/_versions/1.manifest",
            "sets/a.lance/data/x.lance",
            "sets/notes.txt",
            "photos/cat/1.JPEG",
            "tables/t.parquet",
            "photo.jpg",
            "empty/sub/text",
        ] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let check = |path: &str, expected: &[&str]| {
            let found = reason(&folder.path().join(path)).unwrap();
            for expected in expected {
                assert!(found.contains(expected), "{path}: {found}");
            }
        };
        check("gone", &["no such file"]);
        check("photo.jpg", &["is a file", "`loaderd ingest FOLDER"]);
        check(
            "tables/t.parquet",
            &["is a file", "write_dataset", "t.parquet\""],
        );
        check("photos", &["no _versions", "ingest", "photos NEW.lance"]);
        check("photos/cat", &["no _versions", "photos/cat NEW.lance"]);
        check("sets", &["no _versions", "datasets in it, a.lance"]);
        check(
            "sets/a.lance/data/x.lance",
            &["a file of the dataset", "a.lance: name that"],
        );
        check("sets/a.lance/data", &["a folder of the dataset"]);
        check("sets/notes.txt", &["is a file"]);
        let empty = reason(&folder.path().join("empty")).unwrap();
        assert!(empty.ends_with("with a manifest"), "{empty}");
        assert_eq!(reason(&folder.path().join("sets/a.lance")), None);
    }
}
