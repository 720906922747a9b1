//! Schemas of configurations, for editors and for whoever reviews a change of one.

use std::path::Path;
use std::{env, fs};

use schemars::{JsonSchema, schema_for};

/// Compares the JSON Schema of a configuration with `schema.json` in the directory of its crate.
/// `LACIS_BLESS=1` rewrites the file.
///
/// # Errors
///
/// What differs, or why the file cannot be read or written.
pub fn matches_file<T: JsonSchema>(directory: &str) -> Result<(), String> {
    let path = Path::new(directory).join("schema.json");
    let schema = serde_json::to_string_pretty(&schema_for!(T)).map_err(|error| error.to_string())? + "\n";
    if env::var_os("LACIS_BLESS").is_some() {
        return fs::write(&path, schema).map_err(|error| format!("{}: {error}", path.display()));
    }
    let file = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    if file == schema { Ok(()) } else { Err(format!("{} differs; LACIS_BLESS=1 rewrites it", path.display())) }
}
