//! Holding a version against clean-up with a tag, and taking forgotten tags off.
//!
//! Enters: an open version and a run's name. Leaves: a [`Hold`] whose drop takes a run's tag off
//! again. Tags need write access: a dataset that cannot be written to is read unprotected, and the
//! reason is kept. It never touches a tag whose name does not begin with `loaderd-`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lance::Dataset;
use lance::dataset::refs::{Ref, TagContents};
use serde::{Deserialize, Serialize};

use crate::SnapshotError;
use crate::dataset;
use crate::error::words;
use crate::location::Location;
use crate::request::VersionRef;
use crate::runtime::wait;

const RUN_PREFIX: &str = "loaderd-run-";
const KEEP_PREFIX: &str = "loaderd-keep-";

/// How long a version is to be held against Lance's clean-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protect {
    /// As long as the snapshot is open.
    Run,
    /// Beyond it, for checkpoints and replay; [`prune_tags`] takes the tag off once no run reads
    /// the version any more.
    Keep,
    /// Not at all.
    None,
}

/// What holds the version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protection {
    /// This tag.
    Tag(String),
    /// Nothing, as was asked for.
    Off,
    /// Nothing, although it was asked for: the dataset refused the tag for this reason.
    Refused(String),
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => write!(f, "the tag {tag} holds the version against clean-up"),
            Self::Off => f.write_str("nothing holds the version against clean-up, as asked for"),
            Self::Refused(reason) => write!(
                f,
                "nothing holds the version against clean-up: the dataset takes no tag ({reason}); protect=\"none\" \
                 asks for none"
            ),
        }
    }
}

/// Tags on a version; dropping it takes the run's off.
pub(crate) struct Hold {
    protection: Protection,
    /// The run's tag that is still on, and the dataset to take it off.
    owned: Option<(Arc<Dataset>, String)>,
}

impl Hold {
    /// Tags the version that `dataset` is at. A refusal is not an error. A version that is to be
    /// kept gets a run's tag besides: as long as that one is on, the other is not pruned.
    pub(crate) async fn take(dataset: &Arc<Dataset>, protect: Protect, run: &str) -> Self {
        let mut hold = Self {
            protection: Protection::Off,
            owned: None,
        };
        if protect == Protect::None {
            return hold;
        }
        let refused = |error| Protection::Refused(words(&error));
        hold.protection = match tag_run(dataset, run).await {
            Ok(tag) => {
                hold.owned = Some((dataset.clone(), tag.clone()));
                Protection::Tag(tag)
            }
            Err(error) => refused(error),
        };
        if protect == Protect::Keep && hold.owned.is_some() {
            hold.protection = match tag_keep(dataset, run, async || ()).await {
                Ok(tag) => Protection::Tag(tag),
                Err(error) => {
                    // One tag without the other is no protection of the kind that was asked for.
                    if let Some((_, tag)) = hold.owned.take() {
                        let _ = dataset.tags().delete(&tag).await;
                    }
                    refused(error)
                }
            };
        }
        hold
    }

    pub(crate) fn protection(&self) -> &Protection {
        &self.protection
    }

    /// Takes a run's tag off. A tag that is gone already is as good.
    pub(crate) fn release(&mut self) -> Result<(), SnapshotError> {
        let Some((dataset, tag)) = self.owned.take() else {
            return Ok(());
        };
        wait(async {
            match dataset.tags().delete(&tag).await {
                Ok(()) | Err(lance::Error::RefNotFound { .. }) => Ok(()),
                Err(error) => Err(SnapshotError::lance(format!("delete the tag {tag}"), error)),
            }
        })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Nobody is left to tell; `prune_tags` finds what stays behind.
        let _ = self.release();
    }
}

fn version_of(dataset: &Dataset) -> Ref {
    Ref::Version(
        dataset.manifest().branch.clone(),
        Some(dataset.version_id()),
    )
}

/// `loaderd-run-<host>-<boot>-<run>-<pid>-<n>`: no two snapshots ever share one.
async fn tag_run(dataset: &Dataset, run: &str) -> lance::Result<String> {
    static OPENED: AtomicU64 = AtomicU64::new(0);
    // Only uniqueness matters, no other memory hangs on it.
    let n = OPENED.fetch_add(1, Ordering::Relaxed);
    let tag = format!(
        "{RUN_PREFIX}{}-{}-{}-{n}",
        machine(),
        tag_safe(run),
        std::process::id()
    );
    dataset.tags().create(&tag, version_of(dataset)).await?;
    Ok(tag)
}

/// `loaderd-keep-<host>-<boot>-<run>`, with `.2`, `.3`, … for further versions that a run keeps.
/// `taken` is called where a tag is there already, before it is looked at.
async fn tag_keep(
    dataset: &Dataset,
    run: &str,
    mut taken: impl AsyncFnMut(),
) -> lance::Result<String> {
    let base = format!("{KEEP_PREFIX}{}-{}", machine(), tag_safe(run));
    let mut n = 1_u32;
    loop {
        let tag = match n {
            1 => base.clone(),
            _ => format!("{base}.{n}"),
        };
        match dataset.tags().create(&tag, version_of(dataset)).await {
            Ok(()) => return Ok(tag),
            Err(lance::Error::RefConflict { .. }) => {
                taken().await;
                let held = match dataset.tags().get(&tag).await {
                    Ok(held) => held,
                    // It was pruned just now: it is free.
                    Err(lance::Error::RefNotFound { .. }) => continue,
                    Err(error) => return Err(error),
                };
                if held.version == dataset.version_id() && held.branch == dataset.manifest().branch
                {
                    return Ok(tag);
                }
                n += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// `<host>-<boot>`: the machine since its last start. After a restart no process of before lives.
fn machine() -> String {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot: String = boot
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(8)
        .collect();
    format!("{}-{boot:0>8}", tag_safe(&host))
}

/// Lance allows letters, digits, `.`, `-` and `_` in a tag, with rules about dots; we use no dots.
fn tag_safe(text: &str) -> String {
    const LENGTH_MAX: usize = 64;
    text.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' {
                c
            } else {
                '-'
            }
        })
        .take(LENGTH_MAX)
        .collect()
}

/// One tag that [`prune_tags`] took off, or would take off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrunedTag {
    /// Its name.
    pub name: String,
    /// The version that it held.
    pub version: u64,
    /// How long ago it was put on.
    pub age: Duration,
    /// False in a dry run.
    pub removed: bool,
}

impl fmt::Display for PrunedTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.age.as_secs() / 3600;
        write!(
            f,
            "{} (version {}, {hours} hours old)",
            self.name, self.version
        )
    }
}

/// Takes off tags that loaderd put on `uri` at least `older_than` ago, `run` and `keep` alike.
/// Other tags stay, and so does a run's tag whose process is still alive on this machine, and what
/// keeps a version that a run's tag which stays is on. The result is sorted by name. With `dry_run`
/// nothing is changed.
///
/// # Errors
/// Where the dataset cannot be opened, or a tag cannot be removed, or be put back on.
pub fn prune_tags(
    uri: &str,
    older_than: Duration,
    dry_run: bool,
) -> Result<Vec<PrunedTag>, SnapshotError> {
    let location = Location::parse(uri)?;
    wait(prune(&location, older_than, dry_run, async || ()))
}

/// `decided` is called when it is known what goes, before it does.
///
/// Lance deletes a tag whatever was done with it meanwhile. A run may have started since the tags
/// were listed, and counts on a kept tag that it found: but it puts its own tag on before it looks
/// for that one, so a second look, behind the deletion, finds the run, and the kept tag is put back.
async fn prune(
    location: &Location,
    older_than: Duration,
    dry_run: bool,
    decided: impl AsyncFnOnce(),
) -> Result<Vec<PrunedTag>, SnapshotError> {
    let dataset = dataset::open(location, &VersionRef::Latest).await?;
    let tags = list(location, &dataset).await?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let machine = machine();
    let age_of = |contents: &TagContents| {
        let put_on = contents
            .created_at
            .map(|time| u64::try_from(time.timestamp()).unwrap_or_default())
            .unwrap_or_default();
        now.saturating_sub(Duration::from_secs(put_on))
    };
    let read = versions_read(&tags, |name, contents| {
        is_alive(name, &machine) || age_of(contents) < older_than
    });
    let mut pruned = Vec::new();
    for (name, contents) in tags {
        let age = age_of(&contents);
        let kept = name.starts_with(KEEP_PREFIX);
        let ours = kept || name.starts_with(RUN_PREFIX);
        let version = (contents.branch, contents.version);
        let needed = is_alive(&name, &machine) || (kept && read.contains(&version));
        if ours && age >= older_than && !needed {
            let tag = PrunedTag {
                name,
                version: version.1,
                age,
                removed: !dry_run,
            };
            pruned.push((tag, version));
        }
    }
    pruned.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    decided().await;
    if !dry_run {
        for (PrunedTag { name, .. }, _) in &pruned {
            match dataset.tags().delete(name).await {
                Ok(()) | Err(lance::Error::RefNotFound { .. }) => {}
                Err(error) => {
                    return Err(SnapshotError::lance(
                        format!("delete the tag {name}"),
                        error,
                    ));
                }
            }
        }
        // What a run put on and is still there, stays.
        let read = versions_read(&list(location, &dataset).await?, |_, _| true);
        let mut gone = Vec::new();
        for (tag, version) in pruned {
            if !tag.name.starts_with(KEEP_PREFIX) || !read.contains(&version) {
                gone.push((tag, version));
                continue;
            }
            let to = Ref::Version(version.0, Some(version.1));
            match dataset.tags().create(&tag.name, to).await {
                Ok(()) | Err(lance::Error::RefConflict { .. }) => {}
                Err(error) => {
                    let action = format!("put the tag {} back on", tag.name);
                    return Err(SnapshotError::lance(action, error));
                }
            }
        }
        pruned = gone;
    }
    Ok(pruned.into_iter().map(|(tag, _)| tag).collect())
}

async fn list(
    location: &Location,
    dataset: &Dataset,
) -> Result<HashMap<String, TagContents>, SnapshotError> {
    dataset.tags().list().await.map_err(|error| {
        SnapshotError::lance(format!("list the tags of {}", location.uri()), error)
    })
}

/// The versions that runs read, by those of their tags that stay on.
fn versions_read(
    tags: &HashMap<String, TagContents>,
    stays: impl Fn(&str, &TagContents) -> bool,
) -> HashSet<(Option<String>, u64)> {
    let runs = tags.iter().filter(|(name, _)| name.starts_with(RUN_PREFIX));
    let stay = runs.filter(|(name, contents)| stays(name, contents));
    let versions = stay.map(|(_, contents)| (contents.branch.clone(), contents.version));
    versions.collect()
}

/// Whether `tag` is a run's, put on by a process of this machine that still runs.
fn is_alive(tag: &str, machine: &str) -> bool {
    let pid = tag
        .strip_prefix(RUN_PREFIX)
        .and_then(|rest| rest.strip_prefix(machine))
        .and_then(|rest| rest.rsplit('-').nth(1))
        .and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists())
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, Int64Array, RecordBatch, RecordBatchIterator};

    use super::*;

    #[test]
    fn names_are_ones_that_lance_takes() {
        for run in ["run-1", "résumé/../x.lock", "", "a b\n", &"x".repeat(500)] {
            let tag = format!("{RUN_PREFIX}{}-{}-1-0", machine(), tag_safe(run));
            lance::dataset::refs::check_valid_tag(&tag).unwrap();
            let tag = format!("{KEEP_PREFIX}{}-{}.2", machine(), tag_safe(run));
            lance::dataset::refs::check_valid_tag(&tag).unwrap();
        }
    }

    /// A dataset of one row, and where it lies.
    async fn dataset(folder: &Path) -> (Location, Arc<Dataset>) {
        let uri = folder.join("data.lance").to_str().unwrap().to_owned();
        let rows =
            RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
        let rows = rows.unwrap();
        let reader = RecordBatchIterator::new([Ok(rows.clone())], rows.schema());
        let dataset = Dataset::write(reader, &uri, None).await.unwrap();
        (Location::parse(&uri).unwrap(), Arc::new(dataset))
    }

    async fn names(dataset: &Dataset) -> Vec<String> {
        let tags = dataset.tags().list().await.unwrap();
        let mut names: Vec<String> = tags.into_keys().collect();
        names.sort();
        names
    }

    #[test]
    fn a_run_that_starts_in_the_moment_of_a_prune_keeps_its_version() {
        let folder = tempfile::tempdir().unwrap();
        let checked = wait(async {
            let (location, dataset) = dataset(folder.path()).await;
            let kept = tag_keep(&dataset, "run", async || ()).await.unwrap();
            let mut hold = None;
            let starts = async || hold = Some(Hold::take(&dataset, Protect::Keep, "run").await);
            let pruned = prune(&location, Duration::ZERO, false, starts).await?;
            let mut hold = hold.unwrap();
            assert_eq!(*hold.protection(), Protection::Tag(kept.clone()));
            let (_, run) = hold.owned.take().unwrap();
            assert_eq!(names(&dataset).await, [kept.clone(), run.clone()]);
            assert_eq!(pruned, []);
            // Once the run is over, the tag goes as any other.
            dataset.tags().delete(&run).await.unwrap();
            let pruned = prune(&location, Duration::ZERO, false, async || ()).await?;
            assert_eq!(pruned[0].name, kept);
            assert_eq!(names(&dataset).await, [""; 0]);
            Ok(())
        });
        checked.unwrap();
    }

    #[test]
    fn a_tag_that_is_pruned_before_it_is_looked_at_is_put_on_again() {
        let folder = tempfile::tempdir().unwrap();
        let checked = wait(async {
            let (_, dataset) = dataset(folder.path()).await;
            let kept = tag_keep(&dataset, "run", async || ()).await.unwrap();
            let prune = async || dataset.tags().delete(&kept).await.unwrap();
            assert_eq!(tag_keep(&dataset, "run", prune).await.unwrap(), kept);
            assert_eq!(names(&dataset).await, [kept]);
            Ok(())
        });
        checked.unwrap();
    }

    #[test]
    fn a_kept_version_stays_while_a_runs_tag_on_it_does() {
        let folder = tempfile::tempdir().unwrap();
        let checked = wait(async {
            let (location, dataset) = dataset(folder.path()).await;
            let kept = tag_keep(&dataset, "run", async || ()).await.unwrap();
            let path = format!("_refs/tags/{kept}.json");
            let path = Path::new(location.uri()).join(path);
            let text = std::fs::read(&path).unwrap();
            let mut contents: serde_json::Value = serde_json::from_slice(&text).unwrap();
            contents["createdAt"] = "2020-01-01T00:00:00Z".into();
            std::fs::write(&path, contents.to_string()).unwrap();
            let elsewhere = format!("{RUN_PREFIX}elsewhere-00000000-run-1-0");
            let version = version_of(&dataset);
            dataset.tags().create(&elsewhere, version).await.unwrap();
            let hour = Duration::from_secs(3600);
            assert_eq!(prune(&location, hour, false, async || ()).await?, []);
            assert_eq!(names(&dataset).await, [kept.clone(), elsewhere.clone()]);
            dataset.tags().delete(&elsewhere).await.unwrap();
            let pruned = prune(&location, hour, false, async || ()).await?;
            assert_eq!(pruned[0].name, kept);
            assert_eq!(names(&dataset).await, [""; 0]);
            Ok(())
        });
        checked.unwrap();
    }

    #[test]
    fn a_living_process_is_recognised() {
        let here = machine();
        let me = std::process::id();
        let check = |tag: String, alive: bool| assert_eq!(is_alive(&tag, &here), alive, "{tag}");
        check(format!("{RUN_PREFIX}{here}-my-run-{me}-0"), true);
        check(format!("{RUN_PREFIX}{here}-my-run-4194999-0"), false);
        check(
            format!("{RUN_PREFIX}elsewhere-00000000-my-run-{me}-0"),
            false,
        );
        check(format!("{KEEP_PREFIX}{here}-my-run-{me}-0"), false);
    }
}
