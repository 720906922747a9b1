//! The functions that are added: callbacks in turn.

use lacis_abi::Status;

use super::binary::number;
use super::{ALLOCATING, FEW, I32, I64, WORDS};

/// The globals that they share with the host.
#[derive(Clone, Copy)]
pub(super) struct Globals {
    pub(super) step: u32,
    pub(super) stop: u32,
    pub(super) lines: u32,
    pub(super) quiet: u32,
}

/// A callback for heads, with the end of the stream as its last parameter or without (0.1.0).
#[derive(Clone, Copy)]
pub(super) struct OnHeaders {
    pub(super) function: u32,
    pub(super) has_end: bool,
}

/// Code of a function, instruction by instruction (WebAssembly, "Binary Format", 5.4).
pub(super) struct Code(Vec<u8>);

const BLOCK: u8 = 0x02;
const LOOP: u8 = 0x03;
const NOTHING: u8 = 0x40;
const END: u8 = 0x0b;
const DROP: u8 = 0x1a;
const GET_GLOBAL: u8 = 0x23;
const SET_GLOBAL: u8 = 0x24;
const EQUAL: u8 = 0x46;
const NOT_BELOW: u8 = 0x4f;
const SUBTRACT: u8 = 0x6b;
const OR: u8 = 0x72;

/// Before a call of the host: how far the entry is.
pub(super) fn step_of(step: u32) -> Vec<u8> {
    [&[GET_GLOBAL], &number(step)[..]].concat()
}

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

    fn global(self, index: u32) -> Code {
        self.with(GET_GLOBAL, index)
    }

    fn call(self, function: u32) -> Code {
        self.with(0x10, function)
    }

    fn add(self) -> Code {
        self.op(&[0x6a])
    }

    /// With so many numbers of 32 bits beside its parameters, and then so many of 64.
    fn of_both(variables: u8, wide: u8) -> Code {
        Code(vec![2, variables, I32, wide, I64])
    }

    /// Stores the second of two numbers on the stack where the first says, so many bytes further.
    fn store(self, code: u8, offset: u8) -> Code {
        self.op(&[code, 0, offset])
    }

    /// A constant below 64.
    fn constant(self, value: u8) -> Code {
        self.op(&[0x41, value])
    }

    /// Leaves so many blocks if the number on the stack is not 0.
    fn leave_if(self, blocks: u8) -> Code {
        self.op(&[0x0d, blocks])
    }

    /// Sets a global to 0.
    fn reset(self, global: u32) -> Code {
        self.constant(0).with(SET_GLOBAL, global)
    }

    fn count(self, global: u32) -> Code {
        self.global(global).constant(1).add().with(SET_GLOBAL, global)
    }

    /// Runs `body` with the variable `index` from 0 to below the variable or parameter `count`.
    fn repeat(self, index: u32, count: u32, body: impl FnOnce(Code) -> Code) -> Code {
        let begun = self.constant(0).set_local(index).op(&[BLOCK, NOTHING, LOOP, NOTHING]);
        // Out of it when the index is not below.
        let begun = begun.local(index).local(count).op(&[NOT_BELOW]).leave_if(1);
        body(begun).local(index).constant(1).add().set_local(index).op(&[0x0c, 0, END, END])
    }

    /// Calls a callback for heads of the context that is on the stack, with the lines of now and the fourth parameter, and
    /// keeps its answer.
    fn head(self, callback: OnHeaders, lines: u32, answer: u32) -> Code {
        let shown = self.global(lines);
        let shown = if callback.has_end { shown.local(3) } else { shown };
        shown.call(callback.function).set_local(answer)
    }

    /// Leaves so many blocks with an answer that is not 0, or when the host says so.
    fn leave_by(self, answer: u32, stop: u32, blocks: u8) -> Code {
        self.local(answer).global(stop).op(&[OR]).leave_if(blocks)
    }

    /// An answer, and above it how far the entry came.
    fn result(self, answer: u32, step: u32) -> Code {
        const EXTEND: u8 = 0xad;
        self.local(answer).op(&[EXTEND]).global(step).op(&[EXTEND, 0x42, 32, 0x86, 0x84])
    }

    fn end(self) -> Vec<u8> {
        self.op(&[END]).0
    }
}

/// A function of so many parameters that calls an imported one with these.
pub(super) fn wrapper(parameters: u32, step: u32, import: u32) -> Vec<u8> {
    (0..parameters).fold(Code::new(0), Code::local).global(step).call(import).end()
}

/// Logs a line, as the imported function does, which is not called for one that is dropped: where the level is below that
/// of now, and the text within the memory.
pub(super) fn log(globals: Globals, import: u32) -> Vec<u8> {
    const BELOW: u8 = 0x49;
    const IF: u8 = 0x04;
    const EXTEND: u8 = 0xad;
    const ADD_64: u8 = 0x7c;
    const BYTES_OF_PAGES: [u8; 3] = [0x42, 16, 0x86];
    const NOT_ABOVE_64: u8 = 0x58;
    const RETURN: u8 = 0x0f;
    let low = Code::new(0).local(0).global(globals.quiet).op(&[BELOW, IF, NOTHING]);
    let end = low.local(1).op(&[EXTEND]).local(2).op(&[EXTEND, ADD_64]);
    let memory = end.op(&[0x3f, 0, EXTEND]).op(&BYTES_OF_PAGES);
    let dropped = memory.op(&[NOT_ABOVE_64, IF, NOTHING]).constant(0).op(&[RETURN, END, END]);
    dropped.local(0).local(1).local(2).global(globals.step).call(import).end()
}

/// A function of so many parameters, the last two of which say where pointer and size of a block are to be told: calls an
/// imported one with them, asks the allocator for a block for the bytes that this gives ([`Given`](crate::memory::Given)), and
/// answers as the host does where it gives bytes by itself (`memory.rs`).
pub(super) fn give(parameters: u32, step: u32, import: u32, allocator: u32) -> Vec<u8> {
    const IF: [u8; 2] = [0x04, NOTHING];
    const ELSE: u8 = 0x05;
    const RETURN: u8 = 0x0f;
    const TEE: u8 = 0x22;
    const STORE: u8 = 0x36;
    const NONE: u8 = 0x45;
    const OR: u8 = 0x72;
    const ADD_64: u8 = 0x7c;
    const BELOW_64: u8 = 0x54;
    const EXTEND: u8 = 0xad;
    const WRAP: u8 = 0xa7;
    const SHIFT_RIGHT: [u8; 3] = [0x42, 32, 0x88];
    const BYTES_OF_MEMORY: [u8; 6] = [0x3f, 0, EXTEND, 0x42, 16, 0x86];
    /// What stores so many bytes of a word.
    const STORES: [(u8, u8); 4] = [(8, 0x37), (4, 0x3e), (2, 0x3d), (1, 0x3c)];
    let (block, before, size) = (parameters, parameters + 1, parameters + 2);
    let (answer, words) = (parameters + 3, parameters + 4);
    // The same bit as a number with a sign, in LEB128.
    const _: () = assert!(ALLOCATING == 1 << 31);
    let allocating = [0x41, 0x80, 0x80, 0x80, 0x80, 0x78];

    let called = (0..parameters).fold(Code::of_both(3, 1 + WORDS as u8), Code::local).global(step).call(import);
    let known = (0..=WORDS as u32).rev().fold(called, |code, word| code.set_local(answer + word));
    let sized = known.local(answer).op(&SHIFT_RIGHT).op(&[WRAP]).with(TEE, size);
    let some = sized.op(&[NONE]).op(&IF).local(answer).op(&[WRAP, RETURN, END]);
    // What the allocator calls of the host is to be known as such.
    let asks = some.global(step).with(TEE, before).op(&allocating).op(&[OR]).with(SET_GLOBAL, step);
    let asked = asks.local(size).call(allocator).set_local(block).local(before).with(SET_GLOBAL, step);
    let beyond = asked.op(&BYTES_OF_MEMORY).local(block).op(&[EXTEND]).local(size).op(&[EXTEND, ADD_64, BELOW_64]);
    let bad = beyond.local(block).op(&[NONE, OR]).op(&IF);
    let mut code = bad.constant(Status::InvalidMemoryAccess as u8).op(&[RETURN, END]);
    let mut blocks = 0;
    let mut ends = FEW as u8 / 2;
    while ends > 0 {
        if ends > 1 {
            code = code.local(size).constant(ends).op(&[NOT_BELOW]).op(&IF);
            blocks += 1;
        }
        let (width, store) = STORES.into_iter().find(|(width, _)| *width <= ends).unwrap_or(STORES[3]);
        let count = ends / width;
        for word in 0..count {
            code = code.local(block).local(words + u32::from(word)).store(store, word * width);
        }
        for word in 0..count {
            let end = code.local(block).local(size).add().constant(ends).op(&[SUBTRACT]);
            code = end.local(words + u32::from(count + word)).store(store, word * width);
        }
        if ends > 1 {
            code = code.op(&[ELSE]);
        }
        ends /= 2;
    }
    let stored = (0..blocks).fold(code, |code, _| code.op(&[END]));
    let told = stored.local(parameters - 2).local(block).store(STORE, 0);
    told.local(parameters - 1).local(size).store(STORE, 0).constant(Status::Ok as u8).end()
}

pub(super) fn begin(globals: Globals, create: u32, headers: OnHeaders) -> Vec<u8> {
    let Globals { step, stop, lines, .. } = globals;
    let most = super::MOST_BEGIN as u8;
    let (first_root, answer) = (4, 4 + u32::from(most));
    let begun = Code::new(1).reset(step).reset(stop).local(2).with(SET_GLOBAL, lines).op(&[BLOCK, NOTHING]);
    let all = (0..most).fold(begun, |code, index| {
        let created = code.local(0).constant(index).add().local(first_root + u32::from(index)).call(create).count(step);
        let shown = created.local(0).constant(index).add().head(headers, lines, answer).leave_by(answer, stop, 0);
        shown.local(1).constant(index + 1).op(&[EQUAL]).leave_if(0).count(step)
    });
    all.op(&[END]).result(answer, step).end()
}

pub(super) fn heads(globals: Globals, headers: OnHeaders) -> Vec<u8> {
    const INDEX: u32 = 4;
    const ANSWER: u32 = 5;
    let Globals { step, stop, lines, .. } = globals;
    Code::new(2)
        .reset(step)
        .reset(stop)
        .local(2)
        .with(SET_GLOBAL, lines)
        .repeat(INDEX, 1, |code| {
            let context = code.local(0).local(INDEX).op(&[SUBTRACT]);
            context.head(headers, lines, ANSWER).leave_by(ANSWER, stop, 1).count(step)
        })
        .result(ANSWER, step)
        .end()
}

pub(super) fn response(globals: Globals, headers: OnHeaders, body: u32) -> Vec<u8> {
    const SIZE: u32 = 4;
    const INDEX: u32 = 5;
    const ANSWER: u32 = 6;
    let Globals { step, stop, lines, .. } = globals;
    let context = |code: Code| code.local(0).local(INDEX).op(&[SUBTRACT]);
    Code::new(2)
        .reset(step)
        .reset(stop)
        .local(2)
        .with(SET_GLOBAL, lines)
        .op(&[BLOCK, NOTHING])
        .repeat(INDEX, 1, |code| context(code).head(headers, lines, ANSWER).leave_by(ANSWER, stop, 2).count(step))
        .repeat(INDEX, 1, |code| {
            let called = context(code).local(SIZE).constant(1).call(body).set_local(ANSWER);
            called.leave_by(ANSWER, stop, 2).count(step)
        })
        .op(&[END])
        .result(ANSWER, step)
        .end()
}

pub(super) fn end(globals: Globals, log: u32, done: u32, delete: u32) -> Vec<u8> {
    const IS_ZERO_64: u8 = 0x50;
    const WRAP: u8 = 0xa7;
    const HIGH: [u8; 3] = [0x42, 32, 0x88];
    const NONE_64: [u8; 2] = [0x42, 0];
    let step = globals.step;
    let last = super::MOST_END as u32 - 1;
    let [index, first, count] = [1, 2, 3].map(|variable| last + variable);
    let context = |code: Code| code.local(first).local(index).add();
    // As long as there is an exchange: it is taken, and the others move up.
    let taken = Code::new(3).reset(step).op(&[BLOCK, NOTHING, LOOP, NOTHING]).local(0).op(&[IS_ZERO_64]).leave_if(1);
    let taken = taken.local(0).op(&[WRAP]).set_local(first).local(0).op(&HIGH).op(&[WRAP]).set_local(count);
    let moved = (0..last).fold(taken, |code, place| code.local(place + 1).set_local(place));
    let told = moved.op(&NONE_64).set_local(last).repeat(index, count, |code| context(code).call(log).count(step));
    let gone = told.repeat(index, count, |code| {
        let done = context(code).call(done).op(&[DROP]).count(step);
        context(done).call(delete).count(step)
    });
    gone.op(&[0x0c, 0, END, END]).end()
}

pub(super) fn body(globals: Globals, body: u32) -> Vec<u8> {
    const INDEX: u32 = 4;
    const ANSWER: u32 = 5;
    let Globals { step, stop, .. } = globals;
    Code::new(2)
        .reset(step)
        .reset(stop)
        .repeat(INDEX, 1, |code| {
            let called = code.local(0).local(INDEX).op(&[SUBTRACT]).local(2).local(3).call(body).set_local(ANSWER);
            called.leave_by(ANSWER, stop, 1).count(step)
        })
        .result(ANSWER, step)
        .end()
}
