//! Callbacks that follow each other in one entry of the guest: a module is given functions that call its callbacks in turn,
//! before it is compiled.
//!
//! To enter a guest costs more than most callbacks do. What makes no call of the host cannot be seen from outside, so
//! between two callbacks of which the first made none, nothing has to be done outside; what the host does between them
//! otherwise, it does when the next makes its first call, or when all have returned (`turn.rs`). It knows how far
//! they are by a global that the functions count in, and that each call of the host passes as one parameter more: all
//! that the module imports is of other types than it was, and so are its calls (`joint/patch.rs`).
//!
//! Calls of the host that give bytes to the guest answer with these where they are few, and a function that is added asks the
//! module's own allocator for the block that they go into: the guest need not be entered for that.
//!
//! Types, functions, globals and exports are added behind the module's own. What it exports by a name that is used here
//! gets another.

mod binary;
mod functions;
mod patch;

use std::collections::HashSet;
use std::ops::Range;

use wasmparser::{CompositeInnerType, ExternalKind, FuncType, Imports, MemoryType, Parser, Payload, TypeRef, ValType};

use binary::{Items, name_of, number, section, with_step};
use functions::{Globals, OnHeaders, begin, body, end, give, heads, log, response, wrapper};
use patch::Patches;

/// In the order in which Envoy looks for them.
pub(crate) const ALLOCATORS: [&str; 2] = ["malloc", "proxy_on_memory_allocate"];

/// Counts the callbacks that have begun, from 0.
pub(crate) const STEP: &str = "lacis_step";
/// Not 0 when the callback that runs is to be the last.
pub(crate) const STOP: &str = "lacis_stop";
/// How many lines the head has that is shown.
pub(crate) const LINES: &str = "lacis_lines";
/// Lines of levels below this one are not logged: the guest is told so without a call of the host.
pub(crate) const QUIET: &str = "lacis_quiet";
/// First context, how many, lines, end, root contexts of [`MOST_BEGIN`]: of each `proxy_on_context_create` and
/// `proxy_on_request_headers`, until one does not continue. The answer of the one that was called last, and above it the
/// step.
pub(crate) const BEGIN: &str = "lacis_begin";
/// Last context, how many, lines, end: `proxy_on_response_headers` of each from the last on, as [`BEGIN`].
pub(crate) const HEADS: &str = "lacis_response_headers";
/// [`MOST_END`] exchanges, each its first context, and above it how many it has; 0 for none: `proxy_on_log` of each, then
/// `proxy_on_done` and `proxy_on_delete` of each, exchange by exchange.
pub(crate) const END: &str = "lacis_end";
/// Last context, how many, size, end: `proxy_on_response_body` of each from the last on, as [`BEGIN`].
pub(crate) const BODY: &str = "lacis_response_body";
/// Last context, how many, lines, end of the head, size: `proxy_on_response_headers` of each from the last on, then
/// `proxy_on_response_body` of each, which is all of the content; as [`BEGIN`].
pub(crate) const RESPONSE: &str = "lacis_response";

const NAMES: [&str; 9] = [STEP, STOP, LINES, QUIET, BEGIN, HEADS, END, BODY, RESPONSE];

/// Set in the step while the guest's allocator runs for a call of the host.
pub(crate) const ALLOCATING: u32 = 1 << 31;

/// Most bytes that a call of the host answers with, and how many words they take: values of most headers.
pub(crate) const FEW: usize = 64;
pub(crate) const WORDS: usize = FEW / 8;

/// Results of such a call, all of 64 bits.
pub(crate) const RESULTS: usize = WORDS + 1;

/// Calls that can, and their parameters.
const GIVING: [(&str, usize); 2] = [("proxy_get_header_map_value", 5), ("proxy_get_property", 4)];

/// Most contexts that begin in one entry: each has a root context of its own, which is passed.
pub(crate) const MOST_BEGIN: usize = 8;

/// Most exchanges that end in one entry: as many as a busy worker ends in a turn.
pub(crate) const MOST_END: usize = 8;

/// Part of what artifacts are found by: to be changed with what [`extend`] and [`hide`] make.
pub(crate) const VERSION: u32 = 7;

const I32: u8 = 0x7f;
const I64: u8 = 0x7e;

/// The module with the functions above, as far as it has what they call, and with calls of the host that pass the step.
/// The module itself must be valid. None if what is made of it would be larger than a module can be.
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
    imports: u32,
    /// The imported function that logs a line, where there is a memory to read it from.
    log: Option<u32>,
    /// Imported functions that answer with bytes, where there are an allocator and a memory for them.
    giving: Vec<u32>,
    globals: u32,
    /// It has a memory that the host uses, and no other.
    memory: bool,
    /// Exported functions.
    exports: Vec<(String, u32)>,
    /// Sections in their order, and where their content is.
    sections: Vec<(u8, Range<usize>)>,
    bodies: Vec<Range<usize>>,
}

/// Sections, in the order in which a module has them.
const ORDER: [u8; 13] = [1, 2, 3, 4, 5, 13, 6, 7, 8, 9, 12, 10, 11];

const TYPES: u8 = 1;
const FUNCTIONS: u8 = 3;
const GLOBALS: u8 = 6;
const EXPORTS: u8 = 7;
const CODE: u8 = 10;

impl Anatomy {
    /// None of a module that cannot be extended.
    fn of(code: &[u8]) -> Option<Anatomy> {
        let mut own = Anatomy::default();
        let mut memory = false;
        for payload in Parser::new(0).parse_all(code) {
            let payload = payload.ok()?;
            // Of the code the range is that of its content, as of the others.
            own.sections.extend(payload.as_section());
            match payload {
                Payload::TypeSection(types) => {
                    for group in types {
                        let own = &mut own.types;
                        group.ok()?.into_types().for_each(|ty| {
                            own.push(match ty.composite_type.inner {
                                CompositeInnerType::Func(ty) => Some(ty),
                                _ => None,
                            });
                        });
                    }
                }
                Payload::ImportSection(imports) => {
                    for group in imports {
                        match group.ok()? {
                            Imports::Single(_, import) => own.import(import.module, import.name, import.ty, true)?,
                            Imports::Compact1 { module, items } => {
                                for item in items {
                                    let item = item.ok()?;
                                    own.import(module, item.name, item.ty, true)?;
                                }
                            }
                            Imports::Compact2 { module, ty, names } => {
                                for name in names {
                                    own.import(module, name.ok()?, ty, false)?;
                                }
                            }
                        }
                    }
                    own.imports = u32::try_from(own.functions.len()).ok()?;
                }
                Payload::FunctionSection(functions) => {
                    for ty in functions {
                        own.functions.push(ty.ok()?);
                    }
                }
                Payload::MemorySection(memories) => {
                    let plain = |ty: MemoryType| !ty.memory64 && !ty.shared && ty.page_size_log2.is_none();
                    memory = memories.count() == 1 && memories.into_iter().all(|ty| ty.is_ok_and(plain));
                }
                Payload::GlobalSection(globals) => own.globals += globals.count(),
                Payload::ExportSection(exports) => {
                    for export in exports {
                        let export = export.ok()?;
                        if export.kind == ExternalKind::Func {
                            own.exports.push((export.name.to_owned(), export.index));
                        }
                        own.memory |= memory && export.kind == ExternalKind::Memory && export.name == "memory";
                    }
                }
                Payload::CodeSectionEntry(body) => own.bodies.push(body.range()),
                _ => {}
            }
        }
        // Without what they need they are as others.
        own.log = own.log.filter(|_| memory);
        if !own.memory || own.allocator().is_none() {
            own.giving.clear();
        }
        Some(own)
    }

    /// An imported thing; `alone` if it has its type for itself.
    fn import(&mut self, module: &str, name: &str, ty: TypeRef, alone: bool) -> Option<()> {
        match ty {
            TypeRef::Func(ty) => {
                let index = u32::try_from(self.functions.len()).ok()?;
                if module == "env" && name == "proxy_log" && self.is_call(ty, 3) {
                    self.log = Some(index);
                }
                let gives = |(own, parameters)| own == name && self.is_call(ty, parameters);
                if module == "env" && alone && GIVING.into_iter().any(gives) {
                    self.giving.push(index);
                }
                self.functions.push(ty);
                Some(())
            }
            TypeRef::Global(_) => {
                self.globals += 1;
                Some(())
            }
            TypeRef::FuncExact(_) => None,
            TypeRef::Table(_) | TypeRef::Memory(_) | TypeRef::Tag(_) => Some(()),
        }
    }

    /// Its own allocator.
    fn allocator(&self) -> Option<u32> {
        let name = ALLOCATORS.into_iter().find(|name| self.exports.iter().any(|(own, _)| own == name))?;
        self.function(name, 1, true)
    }

    /// Whether this is the type of a call of the host with so many numbers.
    fn is_call(&self, ty: u32, parameters: usize) -> bool {
        let ty = self.types.get(ty as usize).and_then(Option::as_ref);
        ty.is_some_and(|ty| {
            let params = ty.params();
            params.len() == parameters && params.iter().all(|ty| *ty == ValType::I32) && ty.results() == [ValType::I32]
        })
    }

    /// An exported function of the module's own that has so many numbers as parameters, and one as its result or none.
    fn function(&self, name: &str, parameters: usize, result: bool) -> Option<u32> {
        let (_, index) = self.exports.iter().find(|(own, _)| own == name)?;
        let ty = self.types.get(*self.functions.get(*index as usize)? as usize)?.as_ref()?;
        let numbers = ty.params().iter().chain(ty.results()).all(|ty| *ty == ValType::I32);
        let fits = numbers && ty.params().len() == parameters && ty.results().len() == usize::from(result);
        (fits && *index >= self.imports).then_some(*index)
    }

    fn on_headers(&self, name: &str) -> Option<OnHeaders> {
        let new = self.function(name, 3, true).map(|function| OnHeaders { function, has_end: true });
        new.or_else(|| self.function(name, 2, true).map(|function| OnHeaders { function, has_end: false }))
    }

    /// The functions that can be added: name, types of parameters, whether there is a result, and code.
    fn joined(&self, globals: Globals) -> Vec<(&'static str, Vec<u8>, bool, Vec<u8>)> {
        let mut added = Vec::new();
        if let (Some(create), Some(headers)) =
            (self.function("proxy_on_context_create", 2, false), self.on_headers("proxy_on_request_headers"))
        {
            added.push((BEGIN, vec![I32; 4 + MOST_BEGIN], true, begin(globals, create, headers)));
        }
        let headers = self.on_headers("proxy_on_response_headers");
        if let Some(headers) = headers {
            added.push((HEADS, vec![I32; 4], true, heads(globals, headers)));
        }
        if let (Some(log), Some(done), Some(delete)) = (
            self.function("proxy_on_log", 1, false),
            self.function("proxy_on_done", 1, true),
            self.function("proxy_on_delete", 1, false),
        ) {
            added.push((END, vec![I64; MOST_END], false, end(globals, log, done, delete)));
        }
        if let Some(body) = self.function("proxy_on_response_body", 3, true) {
            added.push((BODY, vec![I32; 4], true, self::body(globals, body)));
            if let Some(headers) = headers {
                added.push((RESPONSE, vec![I32; 5], true, response(globals, headers, body)));
            }
        }
        added
    }

    /// Everything that refers to an imported function.
    fn patches(&self, code: &[u8], step: u32) -> Option<Patches> {
        let wrapped = self.log.iter().chain(&self.giving).copied().collect();
        let mut patches = Patches::new(self.imports, wrapped, step);
        for payload in Parser::new(0).parse_all(code) {
            match payload.ok()? {
                Payload::ExportSection(exports) => patches.exports(code, exports.range())?,
                Payload::StartSection { func, range } => patches.start(range, func),
                Payload::TableSection(tables) => {
                    for table in tables {
                        patches.table(&table.ok()?.init)?;
                    }
                }
                Payload::GlobalSection(globals) => {
                    for global in globals {
                        patches.constant(&global.ok()?.init_expr)?;
                    }
                }
                Payload::ElementSection(elements) => {
                    for element in elements {
                        let element = element.ok()?;
                        patches.element(code, &element.kind, element.items)?;
                    }
                }
                Payload::CodeSectionEntry(body) => patches.body(&body)?,
                _ => {}
            }
        }
        Some(patches)
    }

    fn extended(&self, code: &[u8]) -> Option<Vec<u8>> {
        let [step, stop, lines, quiet] = [0, 1, 2, 3].map(|index| self.globals + index);
        let globals = Globals { step, stop, lines, quiet };
        let (mut types, mut functions, mut bodies) = (Items::default(), Items::default(), Items::default());
        let (mut added, mut exports) = (Items::default(), Items::default());
        for (name, index) in [(STEP, step), (STOP, stop), (LINES, lines), (QUIET, quiet)] {
            added.add(&[I32, 1, 0x41, 0, 0x0b]);
            exports.add(&[&name_of(name)[..], &[3], &number(index)].concat());
        }
        let mut patches = self.patches(code, step)?;
        let mut kinds = u32::try_from(self.types.len()).ok()?;
        // As it was imported, whether it gives bytes, and as it is now.
        let mut retyped: Vec<(u32, bool, u32)> = Vec::new();
        let kind = |function: u32| Some((*self.functions.get(function as usize)?, self.giving.contains(&function)));
        for function in 0..self.imports {
            let (old, gives) = kind(function)?;
            if retyped.iter().all(|(other, giving, _)| (*other, *giving) != (old, gives)) {
                types.add(&with_step(self.types.get(old as usize)?.as_ref()?, gives)?);
                retyped.push((old, gives, kinds));
                kinds += 1;
            }
        }
        if let Some((_, imports)) = self.sections.iter().find(|(id, _)| *id == 2) {
            let new = |function| {
                let kind = kind(function)?;
                retyped.iter().find(|(old, gives, _)| (*old, *gives) == kind).map(|(_, _, new)| *new)
            };
            patches.retype(code, imports.clone(), new)?;
        }
        let mut index = u32::try_from(self.functions.len()).ok()?;
        let mut add = |ty: u32, body: &[u8]| {
            functions.add(&number(ty));
            bodies.add(&[&number(u32::try_from(body.len()).ok()?), body].concat());
            index += 1;
            Some(index - 1)
        };
        for (name, parameters, result, body) in self.joined(globals) {
            let ty = [&[0x60, parameters.len() as u8][..], &parameters, &[u8::from(result)]].concat();
            types.add(&[&ty[..], if result { &[I64] } else { &[] }].concat());
            let index = add(kinds, &body)?;
            kinds += 1;
            exports.add(&[&name_of(name)[..], &[0], &number(index)].concat());
        }
        let mut first = None;
        for import in &patches.referred {
            let ty = *self.functions.get(*import as usize)?;
            let parameters = self.types.get(ty as usize)?.as_ref()?.params().len();
            let body = match self.log {
                Some(own) if own == *import => log(globals, own),
                _ => {
                    let parameters = u32::try_from(parameters).ok()?;
                    match self.allocator() {
                        Some(allocator) if self.giving.contains(import) => give(parameters, step, *import, allocator),
                        _ => wrapper(parameters, step, *import),
                    }
                }
            };
            let index = add(ty, &body)?;
            first.get_or_insert(index);
        }
        patches.redirect(first.unwrap_or(0))?;

        let mut more = [(TYPES, types), (FUNCTIONS, functions), (GLOBALS, added), (EXPORTS, exports), (CODE, bodies)]
            .into_iter()
            .peekable();
        let place = |id: u8| ORDER.iter().position(|other| *other == id);
        let mut out = code.get(..8)?.to_vec();
        for (id, range) in &self.sections {
            if *id != 0 {
                while let Some((id, items)) = more.next_if(|(other, _)| place(*other) < place(*id)) {
                    section(&mut out, id, &items.after(&[0])?)?;
                }
            }
            let content = if *id == CODE { self.code(code, &patches)? } else { patches.apply(code, range.clone())? };
            match more.next_if(|(other, _)| other == id) {
                Some((_, items)) => section(&mut out, *id, &items.after(&content)?)?,
                None => section(&mut out, *id, &content)?,
            }
        }
        for (id, items) in more {
            section(&mut out, id, &items.after(&[0])?)?;
        }
        Some(out)
    }

    /// The section of code.
    fn code(&self, code: &[u8], patches: &Patches) -> Option<Vec<u8>> {
        let mut out = number(u32::try_from(self.bodies.len()).ok()?);
        for range in &self.bodies {
            let body = patches.apply(code, range.clone())?;
            out.extend_from_slice(&number(u32::try_from(body.len()).ok()?));
            out.extend_from_slice(&body);
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests;
