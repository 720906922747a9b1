//! Loading machine code that was compiled before: wasmtime's one `unsafe` call, and the checks that make it sound.
#![allow(unsafe_code, reason = "Module::deserialize_open_file trusts its file; who may write it is checked here")]

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use wasmtime::Module;

use crate::engine::{Engine, LoadError};

/// Maps an artifact, once its owner and permissions show that only this user or root can have written it.
pub(crate) fn load(engine: &Engine, path: &Path) -> Result<Module, LoadError> {
    let wrong = |why: String| LoadError::Artifact { path: path.to_owned(), why };
    let file = File::open(path).map_err(|e| wrong(e.to_string()))?;
    // Of the open file, not of the path: what was checked is what is mapped.
    let metadata = file.metadata().map_err(|e| wrong(e.to_string()))?;
    // SAFETY: the call has no precondition.
    let user = unsafe { libc::geteuid() };
    trusted(&metadata, user).map_err(wrong)?;
    // SAFETY: the file was written by this user or by root, who could change this process anyway, and by nobody else;
    // `Plugin::load` says that it must stay as it is. wasmtime itself checks version, settings and CPU features.
    unsafe { Module::deserialize_open_file(engine.wasm(), file) }.map_err(|e| wrong(format!("{e:#}")))
}

fn trusted(file: &Metadata, user: u32) -> Result<(), String> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    if !file.is_file() {
        return Err("not a regular file".into());
    }
    if file.uid() != user && file.uid() != 0 {
        return Err(format!("owned by user {}; machine code must belong to user {user} or to root", file.uid()));
    }
    if file.mode() & WRITABLE_BY_OTHERS != 0 {
        let mode = file.mode() & 0o7777;
        return Err(format!("mode {mode:o} lets others write it; machine code must have mode 600 or 644"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::engine::Options;

    #[test]
    fn only_a_file_that_nobody_else_can_write_is_trusted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let owner = file.as_file().metadata().unwrap().uid();
        for (mode, good) in [(0o600, true), (0o644, true), (0o660, false), (0o646, false), (0o622, false)] {
            fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            assert_eq!(trusted(&file.as_file().metadata().unwrap(), owner).is_ok(), good, "{mode:o}");
        }
        fs::set_permissions(file.path(), Permissions::from_mode(0o600)).unwrap();
        assert_eq!(trusted(&file.as_file().metadata().unwrap(), owner + 1).is_ok(), owner == 0);
        let directory = tempfile::tempdir().unwrap();
        assert!(trusted(&fs::metadata(directory.path()).unwrap(), owner).is_err());
    }

    #[test]
    fn what_is_no_artifact_is_refused() {
        let engine = Engine::new(&Options::default()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        for bytes in [&b""[..], b"\0asm\x01\0\0\0", &[0x7f; 4096]] {
            fs::write(file.path(), bytes).unwrap();
            assert!(matches!(load(&engine, file.path()), Err(LoadError::Artifact { .. })));
        }
        assert!(load(&engine, Path::new("/nonexistent")).is_err());
    }
}
