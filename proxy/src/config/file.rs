//! Files that a configuration names, opened by threads that others wait for.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Opens a file for reading, and nothing else that has a path: to open a pipe would wait for its writer, and a terminal or
/// a device is not read to its end.
///
/// # Errors
/// Those of the system, and what is no file.
pub fn open(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() {
        File::open(path)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_a_file_is_opened() {
        let directory = tempfile::tempdir().expect("tempdir");
        let pipe = directory.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
        for other in [&pipe, directory.path(), Path::new("/dev/zero")] {
            assert_eq!(open(other).expect_err("no file").to_string(), "it is not a file", "{}", other.display());
        }
        assert_eq!(open(&directory.path().join("none")).expect_err("none").kind(), io::ErrorKind::NotFound);
        let file = directory.path().join("file");
        fs::write(&file, "x").expect("write");
        std::os::unix::fs::symlink("file", directory.path().join("link")).expect("link");
        assert!(open(&file).is_ok() && open(&directory.path().join("link")).is_ok());
    }
}
