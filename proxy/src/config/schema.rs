//! The JSON Schema of the file, for editors: `lacis schema`.

use schemars::generate::SchemaSettings;

use super::raw::File;

/// The schema (JSON Schema 2020-12), pretty-printed, derived from the types that read the file.
pub fn text() -> String {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<File>();
    format!("{:#}\n", schema.to_value())
}
