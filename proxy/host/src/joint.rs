//! Callbacks that follow each other in one entry of the guest: a module is given functions that call its callbacks in turn,
//! before it is compiled.
//!
//! To enter a guest costs more than most callbacks do. What makes no call of the host cannot be seen from outside, so
//! between two callbacks of which the first made none, nothing has to be done outside; what the host does between them
//! otherwise, it does when the next makes its first call, or when all have returned (`vm/joint.rs`). It knows how far
//! they are by a global that the functions count in.
//!
//! Nothing of the module is changed: types, functions, globals and exports are added behind its own. A module that this
//! cannot be done with is left as it is, and its callbacks are entered one by one. So is one that exports something by a
//! name that is used here: under that name it would be taken for ours, and so it gets another.

use std::collections::HashSet;

use wasmparser::{BinaryReader, ExternalKind, FuncType, Parser, Payload, TypeRef, ValType};

/// Counts the callbacks that have begun, from 0.
pub(crate) const STEP: &str = "lacis_step";
/// Not 0 when the callback that runs is to be the last.
pub(crate) const STOP: &str = "lacis_stop";
/// Context, root context, number of headers, end: `proxy_on_context_create`, then `proxy_on_request_headers`, whose
/// answer it has.
pub(crate) const BEGIN: &str = "lacis_begin";
/// First context, how many: `proxy_on_log` of each, then `proxy_on_done` and `proxy_on_delete` of each.
pub(crate) const END: &str = "lacis_end";
/// Last context, how many, size, end: `proxy_on_response_body` of each from the last on, until one does not continue. The
/// answer of the one that was called last.
pub(crate) const BODY: &str = "lacis_response_body";

const NAMES: [&str; 5] = [STEP, STOP, BEGIN, END, BODY];

/// Part of what artifacts are found by: to be changed with what [`extend`] and [`hide`] make.
pub(crate) const VERSION: u32 = 2;

const I32: u8 = 0x7f;

/// The module with the functions above, as far as it has what they call; none if that is nothing. The module itself must be
/// valid.
pub(crate) fn extend(code: &[u8]) -> Option<Vec<u8>> {
    Anatomy::of(code)?.extended(code)
}

/// The module with other names, of the same length, for those of its exports that are called like ours; none if no export is.
/// Nobody but the host looks for exports by their names, so it does what it did.
pub(crate) fn hide(code: &[u8]) -> Option<Vec<u8>> {
    let (mut taken, mut ours) = (HashSet::new(), Vec::new());
    for payload in Parser::new(0).parse_all(code) {
        if let Payload::ExportSection(exports) = payload.ok()? {
            for export in exports {
                let name = export.ok()?.name;
                taken.insert(name.to_owned());
                if NAMES.contains(&name) {
                    ours.push(name);
                }
            }
        }
    }
    if ours.is_empty() {
        return None;
    }
    let mut out = code.to_vec();
    for name in ours {
        let free = |other: &String| !taken.contains(other);
        let other = (0..=taken.len()).map(|n| format!("{n:0>width$}", width = name.len())).find(free)?;
        // The name is a part of the code.
        let at = name.as_ptr().addr().checked_sub(code.as_ptr().addr())?;
        out.get_mut(at..at + name.len())?.copy_from_slice(other.as_bytes());
        taken.insert(other);
    }
    Some(out)
}

/// What there is in a module already.
#[derive(Default)]
struct Anatomy {
    types: Vec<Option<FuncType>>,
    /// Types of functions, the imported ones first.
    functions: Vec<u32>,
    globals: u32,
    /// Exported functions.
    exports: Vec<(String, u32)>,
}

impl Anatomy {
    /// None of a module that cannot be extended.
    fn of(code: &[u8]) -> Option<Anatomy> {
        let mut own = Anatomy::default();
        for payload in Parser::new(0).parse_all(code) {
            match payload.ok()? {
                Payload::TypeSection(types) => {
                    for group in types {
                        let own = &mut own.types;
                        group.ok()?.into_types().for_each(|ty| {
                            own.push(match ty.composite_type.inner {
                                wasmparser::CompositeInnerType::Func(ty) => Some(ty),
                                _ => None,
                            });
                        });
                    }
                }
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        match import.ok()?.ty {
                            TypeRef::Func(ty) => own.functions.push(ty),
                            TypeRef::Global(_) => own.globals += 1,
                            TypeRef::FuncExact(_) => return None,
                            TypeRef::Table(_) | TypeRef::Memory(_) | TypeRef::Tag(_) => {}
                        }
                    }
                }
                Payload::FunctionSection(functions) => {
                    for ty in functions {
                        own.functions.push(ty.ok()?);
                    }
                }
                Payload::GlobalSection(globals) => own.globals += globals.count(),
                Payload::ExportSection(exports) => {
                    for export in exports {
                        let export = export.ok()?;
                        if NAMES.contains(&export.name) {
                            return None;
                        }
                        if export.kind == ExternalKind::Func {
                            own.exports.push((export.name.to_owned(), export.index));
                        }
                    }
                }
                _ => {}
            }
        }
        Some(own)
    }

    /// An exported function that has so many numbers as parameters, and one as its result or none.
    fn function(&self, name: &str, parameters: usize, result: bool) -> Option<u32> {
        let (_, index) = self.exports.iter().find(|(own, _)| own == name)?;
        let ty = self.types.get(*self.functions.get(*index as usize)? as usize)?.as_ref()?;
        let numbers = ty.params().iter().chain(ty.results()).all(|ty| *ty == ValType::I32);
        (numbers && ty.params().len() == parameters && ty.results().len() == usize::from(result)).then_some(*index)
    }

    fn extended(&self, code: &[u8]) -> Option<Vec<u8>> {
        let [step, stop] = [self.globals, self.globals + 1];
        let mut added = Vec::new();
        if let (Some(create), Some(headers)) =
            (self.function("proxy_on_context_create", 2, false), self.function("proxy_on_request_headers", 3, true))
        {
            added.push((BEGIN, 4, true, begin(step, create, headers)));
        }
        if let (Some(log), Some(done), Some(delete)) = (
            self.function("proxy_on_log", 1, false),
            self.function("proxy_on_done", 1, true),
            self.function("proxy_on_delete", 1, false),
        ) {
            added.push((END, 2, false, end(step, log, done, delete)));
        }
        if let Some(body) = self.function("proxy_on_response_body", 3, true) {
            added.push((BODY, 4, true, self::body(step, stop, body)));
        }
        if added.is_empty() {
            return None;
        }
        let (mut types, mut functions, mut bodies) = (Items::default(), Items::default(), Items::default());
        let (mut globals, mut exports) = (Items::default(), Items::default());
        for (name, index) in [(STEP, step), (STOP, stop)] {
            globals.add(&[I32, 1, 0x41, 0, 0x0b]);
            exports.add(&[&name_of(name)[..], &[3], &number(index)].concat());
        }
        for (at, (name, parameters, result, body)) in added.iter().enumerate() {
            let at = u32::try_from(at).ok()?;
            let ty = [&[0x60, *parameters][..], &vec![I32; usize::from(*parameters)], &[u8::from(*result)]].concat();
            types.add(&[&ty[..], if *result { &[I32] } else { &[] }].concat());
            functions.add(&number(u32::try_from(self.types.len()).ok()? + at));
            exports.add(&[&name_of(name)[..], &[0], &number(u32::try_from(self.functions.len()).ok()? + at)].concat());
            bodies.add(&[&number(u32::try_from(body.len()).ok()?), &body[..]].concat());
        }

        const EXPORT: u8 = 7;
        let mut out = code.get(..8)?.to_vec();
        let mut rest = BinaryReader::new(code.get(8..)?, 8);
        let mut has_globals = false;
        while !rest.eof() {
            let id = rest.read_u8().ok()?;
            let size = rest.read_var_u32().ok()?;
            let content = rest.read_bytes(size as usize).ok()?;
            has_globals |= id == 6;
            if id == EXPORT && !has_globals {
                section(&mut out, 6, &globals.after(&[0])?)?;
            }
            match id {
                1 => section(&mut out, id, &types.after(content)?)?,
                3 => section(&mut out, id, &functions.after(content)?)?,
                6 => section(&mut out, id, &globals.after(content)?)?,
                EXPORT => section(&mut out, id, &exports.after(content)?)?,
                10 => section(&mut out, id, &bodies.after(content)?)?,
                _ => section(&mut out, id, content)?,
            }
        }
        Some(out)
    }
}

/// What is added to a section.
#[derive(Default)]
struct Items {
    count: u32,
    bytes: Vec<u8>,
}

impl Items {
    fn add(&mut self, item: &[u8]) {
        self.count += 1;
        self.bytes.extend_from_slice(item);
    }

    /// The section with them at its end.
    fn after(&self, section: &[u8]) -> Option<Vec<u8>> {
        let mut own = BinaryReader::new(section, 0);
        let count = own.read_var_u32().ok()?.checked_add(self.count)?;
        Some([&number(count), own.read_bytes(own.bytes_remaining()).ok()?, &self.bytes[..]].concat())
    }
}

fn section(out: &mut Vec<u8>, id: u8, content: &[u8]) -> Option<()> {
    out.push(id);
    out.extend_from_slice(&number(u32::try_from(content.len()).ok()?));
    out.extend_from_slice(content);
    Some(())
}

/// A number in LEB128.
fn number(mut number: u32) -> Vec<u8> {
    let mut out = Vec::new();
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

fn name_of(name: &str) -> Vec<u8> {
    [&number(name.len() as u32), name.as_bytes()].concat()
}

/// Code of a function, instruction by instruction (WebAssembly, "Binary Format", 5.4).
struct Code(Vec<u8>);

impl Code {
    /// With so many variables beside its parameters.
    fn new(variables: u8) -> Code {
        Code(if variables == 0 { vec![0] } else { vec![1, variables, I32] })
    }

    fn op(mut self, code: &[u8]) -> Code {
        self.0.extend_from_slice(code);
        self
    }

    fn with(self, code: u8, index: u32) -> Code {
        let index = number(index);
        self.op(&[code]).op(&index)
    }

    fn local(self, index: u32) -> Code {
        self.with(0x20, index)
    }

    fn set_local(self, index: u32) -> Code {
        self.with(0x21, index)
    }

    fn call(self, function: u32) -> Code {
        self.with(0x10, function)
    }

    fn add(self) -> Code {
        self.op(&[0x6a])
    }

    /// A constant below 64.
    fn constant(self, value: u8) -> Code {
        self.op(&[0x41, value])
    }

    /// Sets a global to 0.
    fn reset(self, global: u32) -> Code {
        self.constant(0).with(0x24, global)
    }

    fn count(self, global: u32) -> Code {
        self.with(0x23, global).constant(1).add().with(0x24, global)
    }

    /// Runs `body` with the variable `index` from 0 to below the second parameter.
    fn repeat(self, index: u32, body: impl FnOnce(Code) -> Code) -> Code {
        const NOTHING: u8 = 0x40;
        let begun = self.constant(0).set_local(index).op(&[0x02, NOTHING, 0x03, NOTHING]);
        // Out of it when the index is not below.
        let begun = begun.local(index).local(1).op(&[0x4f, 0x0d, 1]);
        body(begun).local(index).constant(1).add().set_local(index).op(&[0x0c, 0, 0x0b, 0x0b])
    }

    fn end(self) -> Vec<u8> {
        self.op(&[0x0b]).0
    }
}

fn begin(step: u32, create: u32, headers: u32) -> Vec<u8> {
    let created = Code::new(0).reset(step).local(0).local(1).call(create);
    created.count(step).local(0).local(2).local(3).call(headers).end()
}

fn end(step: u32, log: u32, done: u32, delete: u32) -> Vec<u8> {
    const INDEX: u32 = 2;
    let context = |code: Code| code.local(0).local(INDEX).add();
    const DROP: u8 = 0x1a;
    Code::new(1)
        .reset(step)
        .repeat(INDEX, |code| context(code).call(log).count(step))
        .repeat(INDEX, |code| {
            let done = context(code).call(done).op(&[DROP]).count(step);
            context(done).call(delete).count(step)
        })
        .end()
}

fn body(step: u32, stop: u32, body: u32) -> Vec<u8> {
    const INDEX: u32 = 4;
    const ANSWER: u32 = 5;
    // Count, take away, and leave the loop by its block: with an answer that is not 0, or when the host says so.
    Code::new(2)
        .reset(step)
        .reset(stop)
        .repeat(INDEX, |code| {
            let called = code.local(0).local(INDEX).op(&[0x6b]).local(2).local(3).call(body).set_local(ANSWER);
            called.local(ANSWER).with(0x23, stop).op(&[0x72, 0x0d, 1]).count(step)
        })
        .local(ANSWER)
        .end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, Options};

    const CALLBACKS: &str = r#"
        (func (export "proxy_on_context_create") (param i32 i32))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) i32.const 0)
        (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) i32.const 0)
        (func (export "proxy_on_done") (param i32) (result i32) i32.const 1)
        (func (export "proxy_on_log") (param i32))
        (func (export "proxy_on_delete") (param i32))"#;

    fn extended(items: &str) -> Option<Vec<String>> {
        let engine = Engine::new(&Options::default()).unwrap();
        let code = wat::parse_str(format!("(module {items})")).unwrap();
        let module = wasmtime::Module::new(engine.wasm(), engine.extended(&code)?).unwrap();
        Some(
            module.exports().map(|export| export.name().to_owned()).filter(|name| name.starts_with("lacis_")).collect(),
        )
    }

    #[test]
    fn a_module_is_valid_with_what_is_added() {
        let all = [STEP, STOP, BEGIN, END, BODY].map(str::to_owned).to_vec();
        let many: String =
            (0..200).map(|n| format!("(func (export \"f{n}\")) (global $g{n} i32 (i32.const 0))")).collect();
        for items in [
            "",
            r#"(import "env" "f" (func (param i64))) (import "env" "g" (global i32)) (memory 1) (table 1 funcref)"#,
            r#"(global i64 (i64.const 7)) (func $s) (start $s) (table 1 funcref) (elem (i32.const 0) func $s)
               (memory 1) (data "x")"#,
            "(type (func)) (type (func (param i64))) (func (param i64) (result i64) local.get 0)",
            &many,
        ] {
            assert_eq!(extended(&format!("{items} {CALLBACKS}")).as_ref(), Some(&all), "{items}");
        }
        let some = CALLBACKS.replace("proxy_on_log", "other").replace("(param i32 i32))", "(param i32))");
        assert_eq!(extended(&some).unwrap(), [STEP, STOP, BODY], "what it has not, or otherwise, is not called");
    }

    #[test]
    fn what_is_called_like_ours_is_called_otherwise() {
        let code = wat::parse_str(format!(
            r#"(module {CALLBACKS} (memory (export "0000000000") 1) (global (export "{STEP}") i32 (i32.const 0))
               (global (export "{STOP}") i32 (i32.const 0)) (func $f (export "{END}")) (func ref.func $f drop))"#
        ));
        let engine = Engine::new(&Options::default()).unwrap();
        let code = code.unwrap();
        assert!(engine.extended(&code).is_none());
        let hidden = hide(&code).unwrap();
        let names = |code: &[u8]| -> Vec<String> {
            let module = wasmtime::Module::new(engine.wasm(), code).unwrap();
            module.exports().map(|export| export.name().to_owned()).collect()
        };
        let expected = names(&code).into_iter().map(|name| match name.as_str() {
            STEP => "0000000001".to_owned(),
            STOP => "0000000002".to_owned(),
            END => "000000000".to_owned(),
            _ => name,
        });
        assert!(expected.eq(names(&hidden)), "{:?}", names(&hidden));
        assert_eq!((hide(&hidden), hide(b"no module")), (None, None));
    }

    #[test]
    fn what_cannot_be_extended_is_left() {
        for items in ["", r#"(func (export "proxy_on_log"))"#, &format!("{CALLBACKS} (func (export \"{END}\"))")] {
            assert_eq!(extended(items), None, "{items}");
        }
        let engine = Engine::new(&Options::default()).unwrap();
        assert!(engine.extended(b"no module").is_none());
        // It names a global that it has not, and would have.
        let code = wat::parse_str(format!("(module {CALLBACKS} (global i32 (i32.const 0)) (func global.get 0 drop))"));
        let code = code.unwrap();
        let named = code.windows(2).rposition(|at| at == [0x23, 0]).unwrap();
        let mut broken = code.clone();
        broken[named + 1] = 1;
        assert!(engine.extended(&code).is_some() && engine.extended(&broken).is_none());
    }
}
