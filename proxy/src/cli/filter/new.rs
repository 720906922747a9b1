//! `lacis filter new`: a directory with a small, complete filter in it.

use std::fs;
use std::path::{Path, PathBuf};

use super::project::Language;
use crate::cli::{Failure, Outcome, print};

/// Make a directory with a small, complete filter: its source, its tests, a sidecar's configuration to run it.
#[derive(Debug, clap::Args)]
pub(super) struct New {
    /// The directory; its last part is the filter's name: a-z, 0-9 and '-', beginning with a letter.
    name: PathBuf,
    /// What it is written in.
    #[arg(long, value_name = "LANGUAGE", default_value = "rust")]
    language: Language,
}

/// Paths and contents by language; see `build/templates.rs`.
type Templates = &'static [(&'static str, &'static [(&'static str, &'static [u8])])];

static TEMPLATES: Templates = include!(concat!(env!("OUT_DIR"), "/templates.rs"));

/// What YAML takes for something else, and the name of the package beside which one stands.
const TAKEN: [&str; 4] = ["true", "false", "null", "lacis-sdk"];

/// The name that the filters of the templates have.
const NAME: &str = "doorkeeper";

/// Where the SDK is as the templates see it, and as what is made of them does.
const SDK: (&str, &str) = ("../../sdk", "vendor/sdk");

impl New {
    /// Runs the command.
    pub(super) fn execute(self) -> Outcome {
        let New { name: path, language } = self;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !is_name(name) {
            return Err(Failure::Input(format!(
                "\"{}\" is not the name of a filter; write a-z, 0-9 and '-', beginning with a letter and not ending with '-', but none of {}",
                path.display(),
                TAKEN.join(", ")
            )));
        }
        let template = TEMPLATES.iter().find(|(own, _)| *own == language.word()).map(|(_, files)| *files);
        let Some(files) = template else {
            let known: Vec<&str> = TEMPLATES.iter().map(|(own, _)| *own).collect();
            let why = format!("this lacis has no scaffold for {}; there are {}", language.word(), known.join(", "));
            return Err(Failure::Input(why));
        };
        let taken = fs::read_dir(&path).map(|mut entries| entries.next().is_some()).unwrap_or(path.exists());
        if taken {
            let why = format!("{} is there already; choose another name, or remove it", path.display());
            return Err(Failure::Input(why));
        }
        for (file, content) in files {
            let file = path.join(file.replace(NAME, name));
            write(&file, &fill(content, name, language))
                .map_err(|error| Failure::Input(format!("cannot write {}: {error}", file.display())))?;
        }
        let own: Vec<&str> = files.iter().map(|(file, _)| *file).filter(|file| !file.starts_with("vendor")).collect();
        print(&format!(
            "{path}: a filter in {language} ({own})\n\n    cd {quoted}\n    lacis filter test           # its tests, then cases.yaml \
             against the module\n    lacis filter run --build    # a sidecar with just this filter; save a file, and the \
             change is live\n",
            path = path.display(),
            quoted = quoted(&path),
            language = language.name(),
            own = own.join(", "),
        ));
        Ok(())
    }
}

/// Whether this can be the name of a filter, a package and a module in all languages.
fn is_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !TAKEN.contains(&name)
        && name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(inner)
        && !name.ends_with('-')
}

/// A file of the template as a filter of this name has it. What is no text stays as it is.
fn fill(content: &[u8], name: &str, language: Language) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(content) else { return content.to_vec() };
    let module = language.module(name).display().to_string();
    text.replace(NAME, name).replace(SDK.0, SDK.1).replace("MODULE", &module).into_bytes()
}

/// A path as a shell takes it (POSIX, 2.2.2).
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,@%".contains(c);
    if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "my-filter", "v2"] {
            assert!(is_name(name), "{name:?}");
        }
        for name in ["", "2v", "-a", "a-", "A", "a_b", "..", "ä", "null", "lacis-sdk", &"x".repeat(64)] {
            assert!(!is_name(name), "{name:?}");
        }
    }

    #[test]
    fn a_template_is_whole_and_free_of_its_own_name() {
        let rust = TEMPLATES.iter().find(|(language, _)| *language == "rust").map(|(_, files)| *files).unwrap();
        for wanted in ["Cargo.toml", "src/lib.rs", "cases.yaml", "lacis.yaml", "README.md", "vendor/sdk/src/lib.rs"] {
            assert!(rust.iter().any(|(file, _)| *file == wanted), "{wanted}");
        }
        for (language, files) in TEMPLATES {
            for (file, content) in files.iter().filter(|(file, _)| !file.starts_with("vendor")) {
                let language = Language::of(language).unwrap();
                let filled = String::from_utf8(fill(content, "my-filter", language)).unwrap();
                for left in [NAME, SDK.0, "MODULE"] {
                    assert!(!filled.contains(left), "{file} of {language:?} has {left}");
                }
            }
        }
    }
}
