//! Modules on disk: those that were fetched, and what the compiler made of any. That is machine code that will run in this
//! process, so nobody else may write it; and a file's name holds the digest of its content, so that damage is seen before
//! it runs.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;

/// How long a file stays that nothing has loaded: long enough for a service that is seldom started, and the
/// versions of a filter that is being written do not pile up.
pub(super) const AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// What the compiler made of a module.
    Artifact,
    /// A module, as it was fetched and unpacked.
    Module,
}

impl Form {
    /// Ends of the names of all files that are ours.
    const ALL: [Form; 2] = [Form::Artifact, Form::Module];

    const fn suffix(self) -> &'static str {
        match self {
            Form::Artifact => ".cwasm",
            Form::Module => ".wasm",
        }
    }
}

/// Permissions that let others write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A directory of files, named `KEY-SHA256.cwasm` or `.wasm`. Several processes may use one.
#[derive(Debug)]
pub(super) struct Cache {
    path: PathBuf,
    /// Removed at the end: what was loaded from it stays mapped.
    _temporary: Option<tempfile::TempDir>,
}

impl Cache {
    /// Opens `$LACIS_CACHE`, which must be usable; else `$XDG_CACHE_HOME/lacis` or `$HOME/.cache/lacis`; where these
    /// are not usable (a read-only root file system), a directory for this one time.
    pub(super) fn open(variable: impl Fn(&str) -> Option<OsString>) -> Result<Cache, String> {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = path("LACIS_CACHE") {
            return Cache::at(path).map_err(|why| format!("LACIS_CACHE: {why}"));
        }
        // The XDG Base Directory Specification ignores relative paths.
        let own =
            path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache"))).filter(|path| path.is_absolute());
        let why = match own.map(|path| Cache::at(path.join("lacis"))) {
            Some(Ok(cache)) => return Ok(cache),
            Some(Err(why)) => why,
            None => "neither XDG_CACHE_HOME nor HOME is set".into(),
        };
        tracing::warn!("modules compile at every start: {why}; LACIS_CACHE can name a directory");
        let temporary = tempfile::Builder::new()
            .prefix("lacis-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .map_err(|error| format!("no room for compiled modules: {error}; LACIS_CACHE can name a directory"))?;
        Ok(Cache { path: temporary.path().to_owned(), _temporary: Some(temporary) })
    }

    /// Opens a directory, or makes it.
    pub(super) fn at(path: PathBuf) -> Result<Cache, String> {
        let name = path.display();
        let cannot = |what: &'static str| move |error: io::Error| format!("cannot {what}: {error}");
        let directory = || -> Result<fs::Metadata, String> {
            DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(cannot("be made"))?;
            fs::metadata(&path).map_err(cannot("be read"))
        };
        let directory = directory().map_err(|why| format!("{name} {why}"))?;
        // Before anything is written there: in a directory that all can write, others choose what we load.
        let mode = directory.mode() & 0o7777;
        if mode & WRITABLE_BY_OTHERS != 0 {
            return Err(format!(
                "{name} has mode {mode:o}, so others could put machine code there; make that 700, or name a directory \
                 in it, which will be made"
            ));
        }
        // What this process makes belongs to the user that it runs as, also where a file system maps users.
        let user = tempfile::tempfile_in(&path).and_then(|file| file.metadata());
        let user = user.map_err(|error| format!("{name} cannot be written: {error}"))?.uid();
        if directory.uid() != user {
            return Err(format!(
                "{name} belongs to user {}, who could put machine code there; it must belong to user {user}",
                directory.uid()
            ));
        }
        Ok(Cache { path, _temporary: None })
    }

    /// The file of a key, if there is a whole one. What is damaged is removed.
    pub(super) fn find(&self, key: &str, form: Form) -> Option<PathBuf> {
        for path in self.files() {
            let name = path.file_name()?.to_str()?;
            let Some(expected) = name
                .strip_prefix(key)
                .and_then(|rest| rest.strip_prefix('-'))
                .and_then(|rest| rest.strip_suffix(form.suffix()))
            else {
                continue;
            };
            let whole = File::open(&path).and_then(|mut file| {
                let whole = expected == digest(&mut file)?;
                // So that it does not grow old. It may belong to root and be there to stay.
                let _ = file.set_modified(SystemTime::now());
                Ok(whole)
            });
            if whole.is_ok_and(|whole| whole) {
                return Some(path);
            }
            tracing::warn!(file = %path.display(), "a cached module is damaged, making it again");
            let _ = fs::remove_file(&path);
        }
        None
    }

    /// Adds the file that `make` writes to the path that it is given. Readers see it whole or not at all; when
    /// another process adds the same one meanwhile, either is as good.
    pub(super) fn add(
        &self,
        key: &str,
        form: Form,
        make: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Result<PathBuf, String> {
        // Somebody may have cleaned up since it was opened.
        Cache::at(self.path.clone())?;
        self.sweep(SystemTime::now());
        let cannot = |error: io::Error| format!("cannot write to {}: {error}", self.path.display());
        // With mode 0600, removed unless it is renamed.
        let mut file =
            tempfile::Builder::new().prefix(".").suffix(form.suffix()).tempfile_in(&self.path).map_err(cannot)?;
        make(file.path())?;
        // A crash of the machine must not leave the name without the content.
        file.as_file().sync_all().map_err(cannot)?;
        file.rewind().map_err(cannot)?;
        let digest = digest(file.as_file_mut()).map_err(cannot)?;
        let path = self.path.join(format!("{key}-{digest}{}", form.suffix()));
        file.persist(&path).map_err(|error| cannot(error.error))?;
        Ok(path)
    }

    /// Removes what is older than [`AGE_MAX`]: files nobody loads, and what a killed process left half written.
    fn sweep(&self, now: SystemTime) {
        for path in self.files() {
            let modified = fs::symlink_metadata(&path).and_then(|file| file.modified());
            if modified.is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > AGE_MAX)) {
                let _ = fs::remove_file(&path);
            }
        }
    }

    /// Our own files: a user may have named a directory that holds others.
    fn files(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
            .map(|entry| entry.path())
            .filter(|path| path.to_str().is_some_and(|path| Form::ALL.iter().any(|form| path.ends_with(form.suffix()))))
    }
}

/// SHA-256 of the rest of a file, in hex.
fn digest(file: &mut File) -> io::Result<String> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(super::hex(context.finish().as_ref())),
            Ok(n) => context.update(buffer.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn write(text: &'static str) -> impl FnOnce(&Path) -> Result<(), String> {
        move |path| fs::write(path, text).map_err(|error| error.to_string())
    }

    fn cache() -> (tempfile::TempDir, Cache) {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::at(home.path().join("a/b")).unwrap();
        (home, cache)
    }

    fn open(variables: &[(&str, &Path)]) -> Result<Cache, String> {
        let variables: HashMap<_, _> = variables.iter().map(|(name, path)| (*name, OsString::from(path))).collect();
        Cache::open(|name| variables.get(name).cloned())
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn what_is_added_is_found_by_its_key_and_private() {
        let (_home, cache) = cache();
        assert_eq!(cache.find("k", Form::Artifact), None);
        let path = cache.add("k", Form::Artifact, write("code")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"code");
        assert_eq!((mode(&cache.path), mode(&path)), (0o700, 0o600));
        assert_eq!(cache.find("k", Form::Artifact), Some(path));
        assert_eq!((cache.find("", Form::Artifact), cache.find("kk", Form::Artifact)), (None, None));
        // A process that was not fast enough to see it.
        assert_eq!(cache.add("k", Form::Artifact, write("code")).ok(), cache.find("k", Form::Artifact));
        assert_eq!(cache.files().count(), 1);
    }

    #[test]
    fn a_module_and_what_was_made_of_it_are_told_apart() {
        let (_home, cache) = cache();
        let artifact = cache.add("k", Form::Artifact, write("code")).unwrap();
        assert_eq!(cache.find("k", Form::Module), None);
        let module = cache.add("k", Form::Module, write("module")).unwrap();
        assert_eq!(cache.find("k", Form::Artifact), Some(artifact));
        assert_eq!(cache.find("k", Form::Module), Some(module));
    }

    #[test]
    fn what_could_not_be_made_leaves_nothing() {
        let (_home, cache) = cache();
        assert_eq!(cache.add("k", Form::Artifact, |_| Err("no".into())), Err("no".into()));
        assert_eq!(fs::read_dir(&cache.path).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_was_removed_is_made_again() {
        let (home, cache) = cache();
        cache.add("k", Form::Artifact, write("code")).unwrap();
        fs::remove_dir_all(home.path().join("a")).unwrap();
        assert_eq!(cache.find("k", Form::Artifact), None);
        let path = cache.add("k", Form::Artifact, write("code")).unwrap();
        assert_eq!((mode(&cache.path), cache.find("k", Form::Artifact)), (0o700, Some(path)));
        fs::set_permissions(&cache.path, Permissions::from_mode(0o777)).unwrap();
        assert!(cache.add("l", Form::Artifact, write("code")).unwrap_err().contains("mode 777"));
    }

    #[test]
    fn what_is_damaged_is_removed() {
        let (_home, cache) = cache();
        for damage in ["", "cod", "codf"] {
            let path = cache.add("k", Form::Artifact, write("code")).unwrap();
            fs::write(&path, damage).unwrap();
            assert_eq!(cache.find("k", Form::Artifact), None, "{damage}");
            assert!(!path.exists());
        }
        // A whole one is found beside it.
        let (bad, good) = (
            cache.add("k", Form::Artifact, write("one")).unwrap(),
            cache.add("k", Form::Artifact, write("two")).unwrap(),
        );
        fs::write(bad, "bad").unwrap();
        assert_eq!(cache.find("k", Form::Artifact), Some(good));
    }

    #[test]
    fn what_nobody_loads_goes_and_what_is_not_ours_stays() {
        let (_home, cache) = cache();
        let now = SystemTime::now();
        let aged = |path: &Path, age| File::open(path).unwrap().set_modified(now - age).unwrap();
        let (old, young) = (
            cache.add("old", Form::Artifact, write("1")).unwrap(),
            cache.add("young", Form::Artifact, write("2")).unwrap(),
        );
        let (half, foreign) = (cache.path.join(".half.cwasm"), cache.path.join("photo.jpg"));
        for path in [&half, &foreign] {
            fs::write(path, "").unwrap();
        }
        aged(&young, AGE_MAX);
        for path in [&old, &half, &foreign] {
            aged(path, AGE_MAX + Duration::from_secs(1));
        }
        cache.sweep(now);
        assert_eq!([&old, &young, &half, &foreign].map(|path| path.exists()), [false, true, false, true]);
        // To be found is to be young again.
        cache.find("young", Form::Artifact);
        assert!(fs::metadata(&young).unwrap().modified().unwrap() > now - AGE_MAX);
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let home = tempfile::tempdir().unwrap();
        for mode in [0o777, 0o770, 0o1777, 0o702] {
            fs::set_permissions(home.path(), Permissions::from_mode(mode)).unwrap();
            let error = open(&[("LACIS_CACHE", home.path())]).unwrap_err();
            let expected = format!(
                "LACIS_CACHE: {} has mode {mode:o}, so others could put machine code there; make that 700, or name a \
                 directory in it, which will be made",
                home.path().display()
            );
            assert_eq!(error, expected);
        }
        fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
        assert!(open(&[("LACIS_CACHE", home.path())]).is_ok());
    }

    #[test]
    fn a_directory_of_another_user_is_refused() {
        let home = tempfile::tempdir().unwrap();
        // Only root can give a directory away.
        if fs::metadata(home.path()).unwrap().uid() == 0 {
            std::os::unix::fs::chown(home.path(), Some(4711), None).unwrap();
            let error = open(&[("LACIS_CACHE", home.path())]).unwrap_err();
            assert!(
                error.ends_with("belongs to user 4711, who could put machine code there; it must belong to user 0"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_first_place_that_is_named_counts() {
        let home = tempfile::tempdir().unwrap();
        let at = |name| home.path().join(name);
        let (own, xdg, user) = (at("own"), at("xdg"), at("user"));
        let all = [("LACIS_CACHE", &*own), ("XDG_CACHE_HOME", &xdg), ("HOME", &user)];
        assert_eq!(open(&all).unwrap().path, own);
        assert_eq!(open(&all[1..]).unwrap().path, xdg.join("lacis"));
        assert_eq!(open(&all[2..]).unwrap().path, user.join(".cache/lacis"));
    }

    #[test]
    fn where_there_is_no_place_a_private_directory_serves_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for variables in [&[][..], &[("HOME", file.path())], &[("XDG_CACHE_HOME", Path::new("relative"))]] {
            let cache = open(variables).unwrap();
            assert_eq!(mode(&cache.path), 0o700);
            let artifact = cache.add("k", Form::Artifact, write("code")).unwrap();
            assert_eq!(cache.find("k", Form::Artifact), Some(artifact));
            let path = cache.path.clone();
            drop(cache);
            assert!(!path.exists());
        }
        // What the user names must work.
        assert!(open(&[("LACIS_CACHE", file.path())]).is_err());
    }
}
