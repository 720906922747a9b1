//! Changes of a module where it refers to what it imports: each call passes one number more.

use std::collections::BTreeSet;
use std::ops::Range;

use wasmparser::{
    BinaryReader, ConstExpr, ElementItems, ElementKind, ExternalKind, FunctionBody, Operator, TableInit, TypeRef,
};

use super::binary::number;
use super::functions::step_of;

/// Bytes in the place of others.
struct Patch {
    at: Range<usize>,
    with: Vec<u8>,
}

/// What is changed in a module, in the order of its bytes.
pub(super) struct Patches {
    /// Functions that it imports.
    pub(super) imports: u32,
    /// Those of them that are not called but by functions that are added.
    wrapped: Vec<u32>,
    /// The global that each call of them passes.
    step: u32,
    /// Those that are referred to otherwise than by a call.
    pub(super) referred: BTreeSet<u32>,
    /// The bytes that refer so, and to which.
    references: Vec<(Range<usize>, u32)>,
    patches: Vec<Patch>,
}

impl Patches {
    pub(super) fn new(imports: u32, wrapped: Vec<u32>, step: u32) -> Patches {
        Patches { imports, wrapped, step, referred: BTreeSet::new(), references: Vec::new(), patches: Vec::new() }
    }

    /// Has the functions in an import section be of other types, by their numbers. Those that have their type with others
    /// have it as the first of these.
    pub(super) fn retype(&mut self, code: &[u8], section: Range<usize>, ty: impl Fn(u32) -> Option<u32>) -> Option<()> {
        let mut function = 0;
        // In the place of a kind: several names, each with its type, or one type for several names ("Compact Import Section").
        const EACH: u8 = 0x7f;
        const ALL: u8 = 0x7e;
        let mut rest = BinaryReader::new(code.get(section.clone())?, section.start);
        for _ in 0..rest.read_var_u32().ok()? {
            rest.read_string().ok()?;
            rest.read_string().ok()?;
            match rest.clone().read_u8().ok()? {
                EACH => {
                    rest.read_u8().ok()?;
                    for _ in 0..rest.read_var_u32().ok()? {
                        rest.read_string().ok()?;
                        function += self.retype_one(&mut rest, function, &ty)?;
                    }
                }
                ALL => {
                    rest.read_u8().ok()?;
                    let is = self.retype_one(&mut rest, function, &ty)?;
                    for _ in 0..rest.read_var_u32().ok()? {
                        rest.read_string().ok()?;
                        function += is;
                    }
                }
                _ => function += self.retype_one(&mut rest, function, &ty)?,
            }
        }
        Some(())
    }

    /// How many functions that is: one or none.
    fn retype_one(
        &mut self,
        rest: &mut BinaryReader<'_>,
        function: u32,
        ty: impl Fn(u32) -> Option<u32>,
    ) -> Option<u32> {
        // The number of the type stands after the kind.
        let at = rest.original_position() + 1;
        match rest.read::<TypeRef>().ok()? {
            TypeRef::Func(old) => {
                // A type without a function stays.
                let new = ty(function).unwrap_or(old);
                self.patches.push(Patch { at: at..rest.original_position(), with: number(new) });
                Some(1)
            }
            TypeRef::FuncExact(_) => None,
            TypeRef::Table(_) | TypeRef::Memory(_) | TypeRef::Global(_) | TypeRef::Tag(_) => Some(0),
        }
    }

    /// Has calls in a function pass the step.
    pub(super) fn body(&mut self, body: &FunctionBody<'_>) -> Option<()> {
        let mut operators = body.get_operators_reader().ok()?;
        while !operators.eof() {
            let (operator, at) = operators.read_with_offset().ok()?;
            match operator {
                Operator::Call { function_index } | Operator::ReturnCall { function_index }
                    if self.wrapped.contains(&function_index) =>
                {
                    self.refer(at + 1..operators.original_position(), function_index);
                }
                Operator::Call { function_index } | Operator::ReturnCall { function_index }
                    if function_index < self.imports =>
                {
                    self.patches.push(Patch { at: at..at, with: step_of(self.step) });
                }
                Operator::RefFunc { function_index } => {
                    self.refer(at + 1..operators.original_position(), function_index);
                }
                _ => {}
            }
        }
        Some(())
    }

    pub(super) fn constant(&mut self, expression: &ConstExpr<'_>) -> Option<()> {
        let mut operators = expression.get_operators_reader();
        while !operators.eof() {
            let (operator, at) = operators.read_with_offset().ok()?;
            if let Operator::RefFunc { function_index } = operator {
                self.refer(at + 1..operators.original_position(), function_index);
            }
        }
        Some(())
    }

    pub(super) fn table(&mut self, init: &TableInit<'_>) -> Option<()> {
        match init {
            TableInit::Expr(expression) => self.constant(expression),
            TableInit::RefNull => Some(()),
        }
    }

    pub(super) fn element(&mut self, code: &[u8], kind: &ElementKind<'_>, items: ElementItems<'_>) -> Option<()> {
        if let ElementKind::Active { offset_expr, .. } = kind {
            self.constant(offset_expr)?;
        }
        match items {
            ElementItems::Functions(functions) => {
                for function in functions.into_iter_with_offsets() {
                    let (at, function) = function.ok()?;
                    self.refer(at..index_after(code, at)?, function);
                }
            }
            ElementItems::Expressions(_, expressions) => {
                for expression in expressions {
                    self.constant(&expression.ok()?)?;
                }
            }
        }
        Some(())
    }

    /// Exports as they are in their section.
    pub(super) fn exports(&mut self, code: &[u8], section: Range<usize>) -> Option<()> {
        let mut rest = BinaryReader::new(code.get(section.clone())?, section.start);
        for _ in 0..rest.read_var_u32().ok()? {
            rest.read_string().ok()?;
            let kind: ExternalKind = rest.read().ok()?;
            let at = rest.original_position();
            let index = rest.read_var_u32().ok()?;
            if kind == ExternalKind::Func {
                self.refer(at..rest.original_position(), index);
            }
        }
        Some(())
    }

    /// The function that is run first.
    pub(super) fn start(&mut self, section: Range<usize>, function: u32) {
        self.refer(section, function);
    }

    fn refer(&mut self, at: Range<usize>, function: u32) {
        if function < self.imports {
            self.referred.insert(function);
            self.references.push((at, function));
        }
    }

    /// All references are known: they are to go to these, in the order of [`Patches::referred`].
    pub(super) fn redirect(&mut self, first: u32) -> Option<()> {
        let own: Vec<u32> = self.referred.iter().copied().collect();
        for (at, function) in std::mem::take(&mut self.references) {
            let place = u32::try_from(own.binary_search(&function).ok()?).ok()?;
            self.patches.push(Patch { at, with: number(first.checked_add(place)?) });
        }
        self.patches.sort_by_key(|patch| patch.at.start);
        Some(())
    }

    /// How many calls have been found to change.
    #[cfg(test)]
    pub(super) fn calls(&self) -> usize {
        self.patches.iter().filter(|patch| patch.at.is_empty()).count()
    }

    /// These bytes of the module, as they are now.
    pub(super) fn apply(&self, code: &[u8], range: Range<usize>) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(range.len());
        let first = self.patches.partition_point(|patch| patch.at.start < range.start);
        let mut at = range.start;
        for patch in self.patches.get(first..)?.iter().take_while(|patch| patch.at.end <= range.end) {
            out.extend_from_slice(code.get(at..patch.at.start)?);
            out.extend_from_slice(&patch.with);
            at = patch.at.end;
        }
        out.extend_from_slice(code.get(at..range.end)?);
        Some(out)
    }
}

/// Where a number ends that begins here.
fn index_after(code: &[u8], start: usize) -> Option<usize> {
    let mut reader = BinaryReader::new(code.get(start..)?, start);
    reader.read_var_u32().ok()?;
    Some(reader.original_position())
}
