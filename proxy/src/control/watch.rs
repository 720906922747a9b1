//! Files that others change: certificates, modules, the config, endpoints.
//!
//! inotify tells when to look, the content decides. What is watched is never the file itself but every directory in
//! which a step to it could be replaced: Kubernetes swaps a symbolic link (`..data`) beside the file, editors and
//! `lacis cert issue` rename a new file over the old one, and a watch on a file would follow the old one into nowhere.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::modules::MODULE_MAX;
use crate::config::file;

/// How long it must be quiet before the files are looked at: a writer of several files is given time for the next one.
pub const QUIET: Duration = Duration::from_millis(150);

/// How long a look may be put off by events that do not end.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// How long a look may be put off by somebody who has written a part of a file and has not closed it: what a copy over a slow
/// line has brought so far may be valid by itself. Some keep open what they write.
pub const WRITER: Duration = Duration::from_secs(5);

/// How often the files are looked at without an event: network file systems have none, and the kernel's queue can
/// overflow.
pub const POLL: Duration = Duration::from_secs(30);

/// Most of a file that is looked at, on a thread that others wait for: the largest file that is read at all, and a byte that
/// makes it too large.
const CONTENT_MAX: u64 = MODULE_MAX + 1;

/// Longest chain of symbolic links that is followed, as in Linux (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Watches a set of files for changes of their content.
pub struct Watcher {
    files: Vec<PathBuf>,
    seen: Vec<Content>,
    /// What decides what each file is: see [`steps`].
    ways: Vec<Vec<PathBuf>>,
    /// The files that each last step is.
    ends: HashMap<PathBuf, Vec<usize>>,
    trail: Arc<Trail>,
    directories: BTreeSet<PathBuf>,
    /// Absent where the system gives none (its limit of inotify instances is used up): polling remains.
    inotify: Option<RecommendedWatcher>,
    poll: Instant,
    quiet: Duration,
}

impl Watcher {
    /// Begins to watch `files`, which may be missing. Watch first and read then, so that no change falls in between.
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let trail = Arc::new(Trail::default());
        let handler = trail.clone();
        let inotify = notify::recommended_watcher(move |event| handler.event(event));
        let inotify = inotify
            .inspect_err(|error| tracing::warn!(%error, "cannot watch files, will look every {} s", POLL.as_secs()))
            .ok();
        let files: Vec<_> = files.into_iter().map(|f| std::path::absolute(&f).unwrap_or(f)).collect();
        let mut watcher = Watcher {
            seen: Vec::new(),
            files,
            ways: Vec::new(),
            ends: HashMap::new(),
            trail,
            directories: BTreeSet::new(),
            inotify,
            poll: Instant::now() + POLL,
            quiet: QUIET,
        };
        watcher.follow();
        watcher.seen = watcher.files.iter().map(|file| content(file)).collect();
        watcher
    }

    /// Looks when it has been quiet for this long, in place of [`QUIET`].
    pub fn quiet(self, quiet: Duration) -> Self {
        Watcher { quiet, ..self }
    }

    /// Watches these files from now on. Watch first and read then, so that no change falls in between; what has changed
    /// meanwhile of those that were watched before is still told.
    pub fn watch(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        let files: Vec<_> = files.into_iter().map(|f| std::path::absolute(&f).unwrap_or(f)).collect();
        let known: HashMap<_, _> = self.files.drain(..).zip(self.seen.drain(..)).collect();
        self.files = files;
        self.follow();
        self.seen = self.files.iter().map(|file| known.get(file).cloned().unwrap_or_else(|| content(file))).collect();
    }

    /// Waits until at least one file has another content (or came, or went) than at the last return, and gives those that
    /// have. Nothing is lost if the future is dropped. Looks at the files that an event is about; at all where that is not
    /// so clear, and now and then.
    pub async fn changed(&mut self) -> Vec<PathBuf> {
        loop {
            let event = timeout_at(self.poll, self.trail.touched.notified()).await.is_ok();
            if event {
                let began = Instant::now();
                // A dropped future must not swallow the event that it was about to look at.
                let unseen = Unseen(&self.trail.touched);
                loop {
                    let quiet = timeout(self.quiet, self.trail.touched.notified()).await.is_err();
                    let written = self.trail.is_written();
                    let patience = if written { WRITER } else { PATIENCE };
                    if quiet && !written || began.elapsed() >= patience {
                        break;
                    }
                }
                std::mem::forget(unseen);
            }
            let touched = self.trail.take();
            let few = touched.filter(|_| event && Instant::now() < self.poll).and_then(|names| self.ended_by(&names));
            let look = few.unwrap_or_else(|| {
                self.poll = Instant::now() + POLL;
                // First the watches and then the content: what changes in between is an event.
                self.follow();
                (0..self.files.len()).collect()
            });
            let changed = self.look(&look);
            if !changed.is_empty() {
                return changed;
            }
        }
    }

    /// The files that these names are, if they are no more than that, and each is still where it was.
    fn ended_by(&self, names: &BTreeSet<PathBuf>) -> Option<Vec<usize>> {
        let files: Option<Vec<&Vec<usize>>> = names.iter().map(|name| self.ends.get(name)).collect();
        let files: BTreeSet<usize> = files?.into_iter().flatten().copied().collect();
        let stays = |at: &usize| self.files.get(*at).is_some_and(|file| Some(&steps(file)) == self.ways.get(*at));
        files.iter().all(stays).then(|| files.into_iter().collect())
    }

    /// Looks at some of the files; gives those that have another content.
    fn look(&mut self, at: &[usize]) -> Vec<PathBuf> {
        let mut changed = Vec::new();
        for at in at {
            if let (Some(file), Some(seen)) = (self.files.get(*at), self.seen.get_mut(*at)) {
                let now = content(file);
                if now != *seen {
                    *seen = now;
                    changed.push(file.clone());
                }
            }
        }
        changed
    }

    /// Watches the directories on the way to the files as that way is now.
    fn follow(&mut self) {
        self.ways = self.files.iter().map(|file| steps(file)).collect();
        self.ends.clear();
        for (at, way) in self.ways.iter().enumerate() {
            if let Some(end) = way.last() {
                self.ends.entry(end.clone()).or_default().push(at);
            }
        }
        let steps: BTreeSet<PathBuf> = self.ways.iter().flatten().cloned().collect();
        let directories: BTreeSet<PathBuf> = steps.iter().filter_map(|s| s.parent()).map(Path::to_owned).collect();
        // What is a step of another file, too, or a directory, decides more than what one file holds.
        let more = self.ways.iter().flat_map(|way| way.iter().rev().skip(1)).chain(&directories);
        more.for_each(|name| drop(self.ends.remove(name)));
        // A directory that is moved or removed reports itself.
        self.trail.set(steps.union(&directories).cloned().collect());
        if let Some(inotify) = &mut self.inotify {
            for gone in self.directories.difference(&directories) {
                let _ = inotify.unwatch(gone);
            }
            for directory in &directories {
                // Also those known already: one that was made again under the same name has lost its watch.
                if let Err(error) = inotify.watch(directory, RecursiveMode::NonRecursive) {
                    let (directory, seconds) = (directory.display(), POLL.as_secs());
                    match error.kind {
                        notify::ErrorKind::MaxFilesWatch => tracing::warn!(
                            %directory,
                            "changes are found after up to {seconds} s: there are no inotify watches left; raise fs.inotify.max_user_watches"
                        ),
                        _ => tracing::debug!(%directory, %error, "cannot watch a directory"),
                    }
                }
            }
        }
        self.directories = directories;
    }
}

/// Puts an event back when it is dropped.
struct Unseen<'a>(&'a Notify);

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// The names whose events matter; shared with the thread that reads inotify.
#[derive(Default)]
struct Trail {
    names: Mutex<Names>,
    touched: Notify,
}

#[derive(Default)]
struct Names {
    matter: BTreeSet<PathBuf>,
    /// Those that events were about since it was asked last.
    heard: BTreeSet<PathBuf>,
    /// Something was, and nobody knows which.
    lost: bool,
    /// Those that somebody has written to and not closed since.
    written: BTreeSet<PathBuf>,
}

impl Trail {
    fn set(&self, names: BTreeSet<PathBuf>) {
        let mut known = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        known.written.retain(|name| names.contains(name));
        known.matter = names;
    }

    /// The names that events were about since this was asked last; none if that is not known.
    fn take(&self) -> Option<BTreeSet<PathBuf>> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = std::mem::take(&mut names.heard);
        (!std::mem::take(&mut names.lost)).then_some(heard)
    }

    /// Whether there is one that somebody writes.
    fn is_written(&self) -> bool {
        !self.names.lock().unwrap_or_else(PoisonError::into_inner).written.is_empty()
    }

    /// Other files of the same directory (a log, say) must not wake us, and neither must our own reading.
    fn event(&self, event: notify::Result<notify::Event>) {
        let matters = match event {
            Ok(event) => match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => self.hear(&event.paths, false),
                EventKind::Access(_) => false,
                _ if event.need_rescan() => self.lose(),
                EventKind::Modify(ModifyKind::Data(_)) => self.hear(&event.paths, true),
                _ => self.hear(&event.paths, false),
            },
            Err(_) => self.lose(),
        };
        if matters {
            self.touched.notify_one();
        }
    }

    /// Whether one of them matters. `in_part` if somebody writes them in place, and has not said that this was all.
    fn hear(&self, paths: &[PathBuf], in_part: bool) -> bool {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let Names { matter, heard, written, .. } = &mut *names;
        let mut matters = false;
        for path in paths.iter().filter(|path| matter.contains(*path)) {
            heard.insert(path.clone());
            if in_part {
                written.insert(path.clone());
            } else {
                written.remove(path);
            }
            matters = true;
        }
        matters
    }

    fn lose(&self) -> bool {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.lost = true;
        names.written.clear();
        true
    }
}

/// What a file holds, as far as it matters whether it is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Digest([u8; 32]),
    Unreadable(io::ErrorKind),
}

fn content(file: &Path) -> Content {
    read(file).map_or_else(|error| Content::Unreadable(error.kind()), Content::Digest)
}

fn read(file: &Path) -> io::Result<[u8; 32]> {
    let mut file = file::open(file)?.take(CONTENT_MAX);
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => context.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    Ok(bytes)
}

/// Every directory entry that decides what an absolute path means: each symbolic link on the way, and the last entry.
/// Their own directories have no links in them. Ends where something is missing, with what is missing.
fn steps(path: &Path) -> Vec<PathBuf> {
    let mut steps = Vec::new();
    let mut real = PathBuf::from("/");
    let mut todo: VecDeque<OsString> = names(path);
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            real.pop();
            continue;
        }
        let entry = real.join(&name);
        match fs::read_link(&entry) {
            Ok(target) => {
                steps.push(entry);
                links += 1;
                if links > MAX_LINKS {
                    break;
                }
                if target.is_absolute() {
                    real = PathBuf::from("/");
                }
                for name in names(&target).into_iter().rev() {
                    todo.push_front(name);
                }
            }
            // No link: something in between is a directory, the last is what it all is about.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && !todo.is_empty() => real = entry,
            Err(_) => {
                steps.push(entry);
                break;
            }
        }
    }
    steps
}

fn names(path: &Path) -> VecDeque<OsString> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    path.components().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Far longer than any of this takes; a test that needs it has failed.
    const LIMIT: Duration = Duration::from_secs(20);

    async fn change(watcher: &mut Watcher) -> Vec<PathBuf> {
        timeout(LIMIT, watcher.changed()).await.expect("a change is seen by an event, not by the poll")
    }

    fn directory() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().canonicalize().expect("path");
        (directory, path)
    }

    #[tokio::test]
    async fn renamed_over_and_written_in_place() {
        let (_guard, at) = directory();
        fs::write(at.join("a"), "1").expect("write");
        let mut watcher = Watcher::new([at.join("a")]);

        fs::write(at.join("new"), "2").expect("write");
        fs::rename(at.join("new"), at.join("a")).expect("rename");
        change(&mut watcher).await;

        fs::write(at.join("a"), "3").expect("write");
        change(&mut watcher).await;

        fs::remove_file(at.join("a")).expect("remove");
        change(&mut watcher).await;
    }

    #[tokio::test]
    async fn kubernetes_swaps_a_link() {
        let (_guard, at) = directory();
        let version = |name: &str, text: &str| {
            fs::create_dir(at.join(name)).expect("mkdir");
            fs::write(at.join(name).join("tls.crt"), text).expect("write");
        };
        version("..2024_1", "1");
        symlink("..2024_1", at.join("..data")).expect("link");
        symlink("..data/tls.crt", at.join("tls.crt")).expect("link");
        let mut watcher = Watcher::new([at.join("tls.crt")]);
        for (old, new) in [("..2024_1", "..2024_2"), ("..2024_2", "..2024_3")] {
            version(new, new);
            symlink(new, at.join("..data_tmp")).expect("link");
            fs::rename(at.join("..data_tmp"), at.join("..data")).expect("rename");
            fs::remove_dir_all(at.join(old)).expect("remove");
            change(&mut watcher).await;
        }
    }

    #[tokio::test]
    async fn a_directory_made_again() {
        let (_guard, at) = directory();
        let file = at.join("certs/a");
        let mut watcher = Watcher::new([file.clone()]);
        for text in ["1", "2"] {
            fs::create_dir(at.join("certs")).expect("mkdir");
            fs::write(&file, text).expect("write");
            change(&mut watcher).await;
            fs::remove_dir_all(at.join("certs")).expect("remove");
            change(&mut watcher).await;
        }
    }

    #[tokio::test]
    async fn a_change_is_looked_at_where_it_is() {
        let (_guard, at) = directory();
        let file = |i: usize| at.join(format!("{i}.yaml"));
        (0..100).for_each(|i| fs::write(file(i), "1").expect("write"));
        symlink("7.yaml", at.join("link")).expect("link");
        let mut watcher = Watcher::new((0..100).map(file).chain([at.join("link")]));
        let ended_by = |watcher: &Watcher, name: PathBuf| watcher.ended_by(&[name].into());
        assert_eq!(ended_by(&watcher, file(3)), Some(vec![3]));
        assert_eq!(ended_by(&watcher, file(7)), Some(vec![7, 100]), "by both names");
        assert_eq!(ended_by(&watcher, at.join("link")), None, "it may lead elsewhere");
        assert_eq!(ended_by(&watcher, at.clone()), None);
        fs::write(file(3), "2").expect("write");
        assert_eq!(change(&mut watcher).await, [file(3)]);
        fs::write(file(7), "2").expect("write");
        assert_eq!(change(&mut watcher).await, [file(7), at.join("link")]);
        fs::remove_file(file(5)).expect("remove");
        symlink("6.yaml", file(5)).expect("link");
        assert_eq!(ended_by(&watcher, file(5)), None, "it has become a link");
        fs::write(file(5), "2").expect("write");
        let mut seen = BTreeSet::new();
        while seen.len() < 2 {
            seen.extend(change(&mut watcher).await);
        }
        assert_eq!(seen, [file(5), file(6)].into());
    }

    #[tokio::test]
    async fn another_set_of_files() {
        let (_guard, at) = directory();
        fs::write(at.join("a"), "1").expect("write");
        let mut watcher = Watcher::new([at.join("a")]);
        watcher.watch([at.join("a"), at.join("b")]);
        fs::write(at.join("b"), "1").expect("write");
        change(&mut watcher).await;
        fs::write(at.join("a"), "2").expect("write");
        watcher.watch([at.join("a")]);
        change(&mut watcher).await;
    }

    #[tokio::test]
    async fn a_dropped_wait_loses_nothing() {
        let (_guard, at) = directory();
        fs::write(at.join("a"), "1").expect("write");
        let mut watcher = Watcher::new([at.join("a")]);
        fs::write(at.join("a"), "2").expect("write");
        // Drops the future in the middle of its quiet time.
        let _ = timeout(QUIET / 2, watcher.changed()).await;
        change(&mut watcher).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_writes_is_looked_at_when_it_is_whole() {
        let (_guard, at) = directory();
        let file = at.join("a");
        fs::write(&file, "1").expect("write");
        let mut watcher = Watcher::new([file.clone()]);
        // Told by this test, whose clock is not that of the kernel, which may tell the trail of before something yet.
        (watcher.inotify, watcher.trail) = (None, Arc::default());
        watcher.follow();
        let trail = Arc::clone(&watcher.trail);
        let tell = |kind| trail.event(Ok(notify::Event::new(kind).add_path(file.clone())));
        let (part, whole) = (
            EventKind::Modify(ModifyKind::Data(notify::event::DataChange::Any)),
            EventKind::Access(AccessKind::Close(AccessMode::Write)),
        );
        fs::write(&file, "2").expect("write");
        tell(part);
        assert!(timeout(WRITER - QUIET, watcher.changed()).await.is_err(), "a part");
        fs::write(&file, "22").expect("write");
        tell(whole);
        let closed = Instant::now();
        watcher.changed().await;
        // Timers are a millisecond coarse.
        assert!((QUIET..2 * QUIET).contains(&closed.elapsed()), "{:?}", closed.elapsed());
        fs::write(&file, "3").expect("write");
        tell(part);
        let begun = Instant::now();
        watcher.changed().await;
        assert!((WRITER..WRITER + QUIET).contains(&begun.elapsed()), "by one who never closes it");
    }

    #[tokio::test]
    async fn neighbours_and_readers_do_not_wake() {
        let trail = Trail::default();
        trail.set([PathBuf::from("/certs/a")].into());
        let reads = EventKind::Access(AccessKind::Open(AccessMode::Any));
        let writes = EventKind::Modify(notify::event::ModifyKind::Any);
        let cases = [("/certs/b", writes, false), ("/certs/a", reads, false), ("/certs/a", writes, true)];
        for (path, kind, wakes) in cases {
            trail.event(Ok(notify::Event::new(kind).add_path(path.into())));
            assert_eq!(timeout(Duration::ZERO, trail.touched.notified()).await.is_ok(), wakes, "{path} {kind:?}");
        }
    }

    #[test]
    fn every_step_of_a_way() {
        let (_guard, at) = directory();
        fs::create_dir_all(at.join("releases/5/certs")).expect("mkdir");
        symlink("releases/5", at.join("current")).expect("link");
        symlink(at.join("current/certs"), at.join("certs")).expect("link");
        assert_eq!(
            steps(&at.join("certs/../certs/a")),
            [at.join("certs"), at.join("current"), at.join("releases/5/certs/a"),]
        );
        symlink("loop", at.join("loop")).expect("link");
        assert_eq!(steps(&at.join("loop")).len(), MAX_LINKS + 1);
    }
}
