//! The binary format of modules, as far as something is added to one (WebAssembly, "Binary Format").

use wasmparser::BinaryReader;

/// What is added to a section.
#[derive(Default)]
pub(super) struct Items {
    count: u32,
    bytes: Vec<u8>,
}

impl Items {
    pub(super) fn add(&mut self, item: &[u8]) {
        self.count += 1;
        self.bytes.extend_from_slice(item);
    }

    /// The section with them at its end.
    pub(super) fn after(&self, section: &[u8]) -> Option<Vec<u8>> {
        let mut own = BinaryReader::new(section, 0);
        let count = own.read_var_u32().ok()?.checked_add(self.count)?;
        Some([&number(count), own.read_bytes(own.bytes_remaining()).ok()?, &self.bytes[..]].concat())
    }
}

pub(super) fn section(out: &mut Vec<u8>, id: u8, content: &[u8]) -> Option<()> {
    out.push(id);
    out.extend_from_slice(&number(u32::try_from(content.len()).ok()?));
    out.extend_from_slice(content);
    Some(())
}

/// A number in LEB128.
pub(super) fn number(mut number: u32) -> Vec<u8> {
    let mut out = Vec::new();
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

pub(super) fn name_of(name: &str) -> Vec<u8> {
    [&number(name.len() as u32), name.as_bytes()].concat()
}
