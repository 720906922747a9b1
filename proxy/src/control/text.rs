//! The pages of the program's own file: most of what an idle sidecar has in memory is code and constants that only its
//! start needed (the reader of the configuration, certificates, what loads modules).
//!
//! They are clean, and the kernel's cache keeps what they hold: to unmap them loses nothing, and what is needed after all
//! is there again with one fault for every 64 KiB. They count as resident until then, for this process and for the memory
//! that Kubernetes sees in use.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

/// How long after its beginning a start is over: listeners and workers are there after some 50 ms.
const START: Duration = Duration::from_secs(1);

/// Once the start is over, unmaps what only it needed. Where the kernel cannot say what that is, everything stays.
pub async fn settle() {
    tokio::time::sleep(START).await;
    match unmap() {
        Ok(bytes) => tracing::debug!(bytes, "unmapped the program's pages; those in use come back"),
        Err(error) => tracing::debug!(%error, "the program's pages stay mapped"),
    }
}

/// Unmaps the program's clean pages. Returns how many bytes they may have been: the sizes of the mappings.
#[expect(unsafe_code, reason = "there is no safe call for advice about memory")]
fn unmap() -> io::Result<usize> {
    let program = fs::read_link("/proc/self/exe")?;
    let mut bytes = 0;
    for mapping in clean(&fs::read_to_string("/proc/self/smaps")?, &program) {
        let length = mapping.len();
        // SAFETY: the mapping is of the program's own file, so it is there for as long as the process; nobody may write to it and
        // nobody has (it has no page of its own), so each access finds afterwards what it would have found before.
        let result = unsafe {
            let start = std::ptr::with_exposed_provenance_mut(mapping.start);
            libc::madvise(start, length, libc::MADV_DONTNEED)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        bytes += length;
    }
    Ok(bytes)
}

/// The mappings of a file, of those that `smaps` lists (`man proc_pid_smaps`), that nobody may write to and whose pages are
/// all the file's: a debugger's breakpoint makes a page of the process's own.
fn clean(smaps: &str, file: &Path) -> Vec<Range<usize>> {
    let (mut clean, mut candidate) = (Vec::new(), None);
    for line in smaps.lines() {
        if let Some((range, permissions, name)) = mapping(line) {
            let shared_as_it_is = !permissions.contains('w') && Path::new(name) == file;
            candidate = shared_as_it_is.then_some(range);
        } else if let Some(own) = line.strip_prefix("Anonymous:") {
            clean.extend(candidate.take().filter(|_| own.trim() == "0 kB"));
        }
    }
    clean
}

/// `START-END PERMISSIONS OFFSET DEVICE INODE NAME`: where a mapping lies, what it allows, and of which file it is.
fn mapping(line: &str) -> Option<(Range<usize>, &str, &str)> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let address = |hex| usize::from_str_radix(hex, 16).ok();
    let range = address(start)?..address(end)?;
    let permissions = words.next()?;
    Some((range, permissions, words.nth(3)?.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    /// Constants that nobody else reads, on pages of their own.
    #[repr(align(65536))]
    struct Constants([u8; 1 << 18]);
    static CONSTANTS: Constants = Constants([7; 1 << 18]);

    /// How many pages of the constants are mapped: bit 63 of a page's entry (Linux, `admin-guide/mm/pagemap.rst`).
    fn mapped() -> usize {
        let pagemap = fs::File::open("/proc/self/pagemap").unwrap();
        let first = CONSTANTS.0.as_ptr().addr() / 4096;
        let present = |page: usize| {
            let mut entry = [0; 8];
            pagemap.read_exact_at(&mut entry, page as u64 * 8).unwrap();
            u64::from_le_bytes(entry) >> 63 == 1
        };
        (first..first + CONSTANTS.0.len() / 4096).filter(|page| present(*page)).count()
    }

    fn sum() -> usize {
        CONSTANTS.0.iter().map(|byte| usize::from(std::hint::black_box(*byte))).sum()
    }

    #[test]
    fn pages_go_and_come_back_as_they_were() {
        let before = sum();
        assert_eq!(mapped(), 64);
        assert!(unmap().unwrap() > CONSTANTS.0.len());
        assert_eq!(mapped(), 0);
        assert_eq!(sum(), before);
        assert_eq!(mapped(), 64);
    }

    #[test]
    fn only_clean_pages_of_the_file_that_nobody_may_write_to_are_unmapped() {
        let smaps = "\
5000-6000 r--p 00000000 fe:00 42                         /opt/a b/lacis
Size:                  4 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
6000-9000 r-xp 00001000 fe:00 42                         /opt/a b/lacis
Anonymous:             4 kB
9000-a000 rw-p 00004000 fe:00 42                         /opt/a b/lacis
Anonymous:             0 kB
a000-c000 r-xp 00005000 fe:00 42                         /opt/a b/lacis
LazyFree:              0 kB
Anonymous:             0 kB
c000-d000 rw-p 00000000 00:00 0 
Anonymous:             0 kB
d000-e000 r--p 00000000 fe:00 43                         /usr/lib/libc.so.6
Anonymous:             0 kB
";
        assert_eq!(clean(smaps, Path::new("/opt/a b/lacis")), [0x5000..0x6000, 0xa000..0xc000]);
        for bad in ["", "5000-zz r--p 0 0 0 /opt/lacis\nAnonymous: 0 kB\n", "5000-6000 r--p\nAnonymous: 0 kB\n"] {
            assert!(clean(bad, Path::new("/opt/lacis")).is_empty(), "{bad}");
        }
    }
}
