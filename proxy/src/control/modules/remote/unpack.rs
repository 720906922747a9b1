//! The module in what was fetched: it is the module, or a tar.gz that holds one.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;

use super::super::{MODULE, MODULE_MAX, module as bounded};

/// Begin of gzip data, RFC 1952 section 2.3.1.
const GZIP: &[u8] = &[0x1f, 0x8b];

/// What the module is called in an archive; Istio's rule.
const NAME: &[u8] = b"plugin.wasm";

/// Most bytes of an archive that are looked through. An image made with a tool chain may hold other files beside the
/// module; gzip can make a thousand bytes of one.
const ARCHIVE_MAX: u64 = 2 * MODULE_MAX;

/// The module in these bytes; whether they are one that can be compiled is seen later.
///
/// # Errors
/// What is wrong with them.
pub(super) fn module(bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    // All versions of the format, so that a component is told so by name.
    if MODULE.get(..4).is_some_and(|magic| bytes.starts_with(magic)) {
        return Ok(bytes);
    }
    if bytes.starts_with(GZIP) {
        return archived(&bytes);
    }
    Err("it is neither a WebAssembly module nor a tar.gz with one (it begins with neither \\0asm nor 1f 8b)".into())
}

fn archived(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let broken = |error: io::Error| format!("its archive cannot be read: {error}");
    let mut archive = tar::Archive::new(MultiGzDecoder::new(bytes).take(ARCHIVE_MAX));
    for entry in archive.entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let path = entry.path_bytes();
        let path = path.strip_prefix(b"./").or(path.strip_prefix(b"/")).unwrap_or(&path);
        if path != NAME {
            continue;
        }
        if !entry.header().entry_type().is_file() {
            return Err("plugin.wasm in its archive is not a file".into());
        }
        let size = entry.size();
        let code = if size > MODULE_MAX { Vec::new() } else { bounded(entry, 0).map_err(broken)? };
        return match code.len() as u64 {
            _ if size > MODULE_MAX => {
                Err(format!("plugin.wasm in its archive is larger than {} MiB", MODULE_MAX >> 20))
            }
            length if length == size => Ok(code),
            _ => Err("its archive breaks off in plugin.wasm".into()),
        };
    }
    Err("its archive holds no plugin.wasm".into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    }

    fn tar(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            // Not by `set_path`, which refuses what is hostile.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            archive.append(&header, *content).unwrap();
        }
        archive.into_inner().unwrap()
    }

    #[test]
    fn a_module_is_found_bare_and_in_archives() {
        let code = [MODULE, b"code"].concat();
        assert_eq!(module(code.clone()), Ok(code.clone()));
        for name in ["plugin.wasm", "./plugin.wasm", "/plugin.wasm"] {
            let archive = tar(&[("etc/passwd", tar::EntryType::Regular, b"x"), (name, tar::EntryType::Regular, &code)]);
            assert_eq!(module(gzip(&archive)), Ok(code.clone()), "{name}");
        }
    }

    #[test]
    fn what_is_no_module_is_refused() {
        let file = tar::EntryType::Regular;
        let whole = tar(&[("plugin.wasm", file, &[0; 600])]);
        for (bytes, why) in [
            (b"<html>".to_vec(), "neither a WebAssembly module nor"),
            (vec![], "neither a WebAssembly module nor"),
            (gzip(b"no tar"), "cannot be read"),
            (gzip(b""), "no plugin.wasm"),
            (GZIP.to_vec(), "cannot be read"),
            (gzip(&tar(&[("other/plugin.wasm", file, b"x")])), "no plugin.wasm"),
            (gzip(&tar(&[("../plugin.wasm", file, b"x")])), "no plugin.wasm"),
            (gzip(&tar(&[("plugin.wasm", tar::EntryType::Symlink, b"")])), "not a file"),
            (gzip(&whole[..1000]), "archive"),
            (gzip(&whole)[..20].to_vec(), "cannot be read"),
        ] {
            let error = module(bytes.clone()).unwrap_err();
            assert!(error.contains(why), "{why}: {error}");
        }
    }

    #[test]
    fn the_size_is_bounded_before_it_is_read() {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..NAME.len()].copy_from_slice(NAME);
        let claims = |size: u64| {
            let mut header = header.clone();
            header.set_size(size);
            header.set_cksum();
            module(gzip(header.as_bytes())).unwrap_err()
        };
        assert_eq!(claims(MODULE_MAX + 1), "plugin.wasm in its archive is larger than 256 MiB");
        assert!(!claims(MODULE_MAX).contains("larger"));
    }
}
