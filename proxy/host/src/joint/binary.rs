//! The binary format of modules, as far as something is added to one (WebAssembly, "Binary Format").

use wasmparser::{BinaryReader, FuncType, RefType, ValType};

use super::{I32, I64, RESULTS};

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

/// A function type with one more parameter, and with the results of a call that gives bytes. None of another that has these:
/// it must not be taken for one.
pub(super) fn with_step(ty: &FuncType, gives: bool) -> Option<Vec<u8>> {
    let results = if gives { &[ValType::I64; RESULTS] } else { ty.results() };
    if !gives && results == [ValType::I64; RESULTS] {
        return None;
    }
    let mut out = vec![0x60];
    out.extend_from_slice(&number(u32::try_from(ty.params().len() + 1).ok()?));
    for parameter in ty.params() {
        out.push(byte(*parameter)?);
    }
    out.push(I32);
    out.extend_from_slice(&number(u32::try_from(results.len()).ok()?));
    for result in results {
        out.push(byte(*result)?);
    }
    Some(out)
}

fn byte(ty: ValType) -> Option<u8> {
    Some(match ty {
        ValType::I32 => I32,
        ValType::I64 => I64,
        ValType::F32 => 0x7d,
        ValType::F64 => 0x7c,
        ValType::V128 => 0x7b,
        ValType::Ref(ty) if ty == RefType::FUNCREF => 0x70,
        ValType::Ref(_) => return None,
    })
}
