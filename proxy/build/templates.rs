//! The scaffolds of `lacis filter new`: `examples/LANGUAGE`, what they have in common, and the SDK that they are built with.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Languages, and the parts of `sdk/` that a filter in them needs.
const LANGUAGES: [(&str, &[&str]); 6] = [
    ("assemblyscript", &["assemblyscript"]),
    ("c", &["c"]),
    ("cpp", &["c", "cpp"]),
    ("go", &["go"]),
    ("rust", &["Cargo.toml", "README.md", "src"]),
    ("zig", &["zig"]),
];

/// What is in a folder of sources and is none.
const OUTPUTS: [&str; 6] = ["target", "node_modules", "build", "zig-out", ".zig-cache", "vendor"];

/// Writes the table: languages in alphabetical order, and for each its files, path and content.
///
/// # Errors
/// What cannot be read, or a manifest that cannot stand alone.
pub(crate) fn write(root: &Path, out: &Path) -> Result<(), String> {
    let own = root.join("proxy/src/cli/filter/templates");
    let mut table = String::from("&[\n");
    for (language, parts) in LANGUAGES {
        let (mut files, mut example) = (Vec::new(), Vec::new());
        let folder = root.join("examples").join(language);
        collect(&folder, &folder, "", &mut example)?;
        if example.is_empty() {
            continue;
        }
        collect(&own.join("common"), &own.join("common"), "", &mut files)?;
        files.append(&mut example);
        for part in parts {
            let path = root.join("sdk").join(part);
            if path.is_file() {
                files.push((format!("vendor/sdk/{part}"), path));
            } else {
                collect(&path, &path, &format!("vendor/sdk/{part}/"), &mut files)?;
            }
        }
        let mut names: Vec<String> = Vec::new();
        let _ = writeln!(table, "    ({language:?}, &[");
        for (name, path) in files {
            println!("cargo::rerun-if-changed={}", path.display());
            // A common file goes before the example's own, which speaks of the folders around it.
            if names.contains(&name) {
                continue;
            }
            let source = match name.as_str() {
                "vendor/sdk/Cargo.toml" => {
                    let alone = out.join("sdk.toml");
                    let manifest = manifest(&read(&root.join("Cargo.toml"))?, &read(&path)?)?;
                    fs::write(&alone, manifest)
                        .map_err(|error| format!("cannot write {}: {error}", alone.display()))?;
                    alone
                }
                _ => path,
            };
            let _ = writeln!(table, "        ({name:?}, include_bytes!({:?})),", source.display().to_string());
            names.push(name);
        }
        table.push_str("    ]),\n");
    }
    table.push_str("]\n");
    fs::write(out.join("templates.rs"), table).map_err(|error| format!("cannot write the scaffolds: {error}"))
}

/// Every file below a folder, which need not be there.
fn collect(root: &Path, folder: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> Result<(), String> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !OUTPUTS.contains(&name.as_str()) {
                collect(root, &path, prefix, files)?;
            }
        } else if !name.ends_with(".wasm") {
            let below = path.strip_prefix(root).map_err(|error| error.to_string())?;
            // A file of that name would ignore others here.
            let below = below.display().to_string().replace("gitignore", ".gitignore").replace("..git", ".git");
            files.push((format!("{prefix}{below}"), path));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// The manifest of a member as one that needs no workspace: what it inherits is written out, what only its own tests and
/// lints need is left out.
pub(crate) fn manifest(workspace: &str, member: &str) -> Result<String, String> {
    let mut alone = String::from("# Written by `lacis filter new`; the SDK of that version.\n");
    let mut section = "";
    for line in member.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim_matches(['[', ']']);
        }
        let own = section == "lints" || section.contains("dev-dependencies");
        if own || matches!(section, "bench" | "example" | "test") || line.starts_with('#') {
            continue;
        }
        let table = if section == "package" { "workspace.package" } else { "workspace.dependencies" };
        let inherited = |key: &str| value(workspace, table, key).ok_or_else(|| format!("{table} has no {key}"));
        let line = match line.split_once('=') {
            Some((key, _)) if key.trim().ends_with(".workspace") => {
                let key = key.trim().trim_end_matches(".workspace");
                format!("{key} = {}", inherited(key)?)
            }
            Some((key, rest)) if rest.contains("workspace = true") => {
                let key = key.trim();
                let more = rest.trim().trim_start_matches('{').trim_end_matches('}').replace("workspace = true", "");
                let more = more.trim().trim_matches(',').trim();
                let base = inherited(key)?;
                let base = match base.strip_prefix('{').and_then(|base| base.strip_suffix('}')) {
                    Some(table) => table.trim(),
                    None => &format!("version = {base}"),
                };
                if base.contains("features") && more.contains("features") {
                    return Err(format!(
                        "sdk/Cargo.toml: {key} has features here and in the workspace; name them once"
                    ));
                }
                format!("{key} = {{ {base}, {more} }}")
            }
            _ => line.to_owned(),
        };
        if line.contains("path = \"") {
            return Err(format!("sdk/Cargo.toml: a filter has no such path: {line}"));
        }
        alone.push_str(&line);
        alone.push('\n');
    }
    Ok(alone)
}

/// The value of a key, as it is written on one line.
fn value<'w>(workspace: &'w str, table: &str, key: &str) -> Option<&'w str> {
    let mut lines = workspace.lines().skip_while(|line| *line != format!("[{table}]")).skip(1);
    let mut section = lines.by_ref().take_while(|line| !line.starts_with('['));
    section.find_map(|line| line.split_once('=').filter(|(own, _)| own.trim() == key)).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_stands_alone() {
        let workspace = "[workspace.package]\nversion = \"0.1.0\"\n\n[workspace.dependencies]\n\
                         serde = { version = \"1\", features = [\"derive\"] }\nlog = \"0.4\"\nown = { path = \"x\" }\n";
        let member = "[package]\nname = \"a\"\nversion.workspace = true\n\n# why\n[dependencies]\nserde.workspace = true\n\
                      log = { workspace = true, features = [\"std\"] }\n\n[dev-dependencies]\nown.workspace = true\n\n\
                      [lints]\nworkspace = true\n";
        let alone = manifest(workspace, member).unwrap();
        let lines: Vec<&str> = alone.lines().skip(1).filter(|line| !line.is_empty()).collect();
        let expected = [
            "[package]",
            "name = \"a\"",
            "version = \"0.1.0\"",
            "[dependencies]",
            "serde = { version = \"1\", features = [\"derive\"] }",
            "log = { version = \"0.4\", features = [\"std\"] }",
        ];
        assert_eq!(lines, expected);
        for (member, why) in [
            ("[dependencies]\nown.workspace = true\n", "no such path"),
            ("[dependencies]\nnone.workspace = true\n", "has no none"),
            ("[dependencies]\nserde = { workspace = true, features = [\"rc\"] }\n", "name them once"),
        ] {
            assert!(manifest(workspace, member).unwrap_err().contains(why), "{member}");
        }
    }
}
