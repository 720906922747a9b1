//! The JSON Schemas of the files, for editors: `lacis schema`.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;

use super::raw::{File, cases};

/// The schema of the config (JSON Schema 2020-12), pretty-printed, derived from the types that read the file.
pub fn text() -> String {
    schema::<File>()
}

/// The same of cases of a filter.
pub fn cases() -> String {
    schema::<cases::File>()
}

fn schema<T: JsonSchema>() -> String {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    format!("{:#}\n", schema.to_value())
}
