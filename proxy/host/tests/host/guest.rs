//! Guests for tests, written as lists of calls: `num(proxy_log(2, "text"))` in a callback becomes a module. A string is
//! passed as its pointer and its size. Besides imports there are `num(x)` (logs a number), `text()` (logs the text whose
//! pointer and size were stored at 16 and 20), `at(x)` and `put(x, y)` (memory), `p0`, `p1`, … (parameters of the
//! callback), `return(x)`, `drop(x)`, `trap()`, `forever()`, `recurse()`, `grow(pages)`, and
//! `bad()` for a function `$bad` that the test defines.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::LazyLock;

use lacis_host::abi::BodyAnswer;
use lacis_host::testing::{List, TestStream, TestWorld};
use lacis_host::{
    ContextId, Engine, Half, HeadersAction, Options, Plugin, PluginSettings, RootId, StartError, Trap, Vm, VmSettings,
};

use crate::abi;

pub(crate) static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(&Options::default()).unwrap());

/// Where the strings of a guest begin; below are cells for answers.
const STRINGS: usize = 4096;

#[derive(Clone)]
pub(crate) struct Guest {
    marker: String,
    callbacks: BTreeMap<String, String>,
    /// More items of the module, in WAT.
    items: String,
    allocator: String,
    pub(crate) settings: VmSettings,
    pub(crate) plugin: PluginSettings,
}

/// A VM with one plugin and one exchange, and what it sees.
pub(crate) struct Run {
    pub(crate) vm: Vm,
    pub(crate) root: RootId,
    pub(crate) id: ContextId,
    pub(crate) stream: Rc<RefCell<TestStream>>,
    pub(crate) world: Rc<RefCell<TestWorld>>,
}

pub(crate) const REQUEST: &[(&str, &str)] = &[
    (":authority", "delta"),
    (":path", "/a?b"),
    (":method", "GET"),
    ("x-user", "one"),
    ("x-user", "two"),
    ("x-empty", ""),
];
pub(crate) const RESPONSE: &[(&str, &str)] = &[(":status", "200"), ("server", "delta")];

impl Guest {
    pub(crate) fn new() -> Guest {
        Guest {
            marker: "proxy_abi_version_0_2_1".into(),
            callbacks: BTreeMap::new(),
            items: String::new(),
            allocator: BUMP.into(),
            settings: VmSettings::default(),
            plugin: PluginSettings { name: "guest".into(), ..PluginSettings::default() },
        }
    }

    /// A guest with this in its request callback.
    pub(crate) fn request(code: &str) -> Guest {
        Guest::new().on("proxy_on_request_headers", code)
    }

    pub(crate) fn on(mut self, callback: &str, code: &str) -> Guest {
        self.callbacks.insert(callback.into(), code.into());
        self
    }

    pub(crate) fn marker(mut self, marker: &str) -> Guest {
        self.marker = marker.into();
        self
    }

    pub(crate) fn items(mut self, wat: &str) -> Guest {
        self.items.push_str(wat);
        self
    }

    pub(crate) fn allocator(mut self, wat: &str) -> Guest {
        self.allocator = wat.into();
        self
    }

    pub(crate) fn code(&self) -> Vec<u8> {
        let mut writer = Writer { strings: Vec::new(), imports: BTreeSet::from(["proxy_log".to_owned()]) };
        let mut functions = String::new();
        for (name, code) in &self.callbacks {
            let ty = abi::rows(abi::CALLBACKS).find(|(other, _)| other == name).unwrap().1;
            // 0.1.0 has no end of stream.
            let old = self.marker.ends_with("0_1_0") && name.ends_with("headers");
            let ty = if old { ty.replace("i32 i32 i32", "i32 i32") } else { ty };
            let body = writer.block(code);
            let end = if ty.contains("result") { "(i32.const 0)" } else { "" };
            let end = if matches!(
                name.as_str(),
                "proxy_on_vm_start" | "proxy_validate_configuration" | "proxy_on_configure" | "proxy_on_done"
            ) {
                "(i32.const 1)"
            } else {
                end
            };
            functions.push_str(&format!("(func ${name} (export \"{name}\") {ty} {body} {end})\n"));
        }
        let imports: String = writer.imports.iter().map(|name| import(name)).collect();
        let strings: String = writer.strings.iter().map(|byte| format!("\\{byte:02x}")).collect();
        let Guest { marker, items, allocator, .. } = self;
        let wat = format!(
            "(module {imports} (memory (export \"memory\") 4) (data (i32.const {STRINGS}) \"{strings}\")
             (func (export \"{marker}\")) {HELPERS} {allocator} {items} {functions})"
        );
        wat::parse_str(&wat).unwrap_or_else(|e| panic!("{e}\n{wat}"))
    }

    pub(crate) fn plugin(&self) -> Plugin {
        Plugin::compile(&ENGINE, &self.code()).unwrap()
    }

    pub(crate) fn vm(&self, world: &Rc<RefCell<TestWorld>>) -> Result<Vm, StartError> {
        Vm::new(&self.plugin(), self.settings.clone(), world.clone())
    }

    /// Starts the plugin and opens an exchange.
    pub(crate) fn start(&self) -> Run {
        let world = TestWorld::shared();
        let mut vm = self.vm(&world).unwrap();
        let root = vm.start_root(self.plugin.clone()).unwrap();
        let stream = TestStream::request(REQUEST);
        let id = vm.open(root, stream.clone()).unwrap();
        Run { vm, root, id, stream, world }
    }

    /// Starts the plugin and opens a TCP connection.
    pub(crate) fn connect(&self) -> Run {
        let mut run = self.start();
        run.vm.close(run.id).unwrap();
        run.id = run.vm.open_tcp(run.root, run.stream.clone()).unwrap();
        run.lines();
        run
    }

    /// Runs one whole exchange and says what was logged.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut run = self.start();
        run.exchange().unwrap();
        run.lines()
    }
}

impl Run {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.world.borrow_mut().take_lines()
    }

    pub(crate) fn exchange(&mut self) -> Result<(), Trap> {
        self.on_request()?;
        self.on_response()?;
        self.vm.close(self.id)
    }

    pub(crate) fn on_request(&mut self) -> Result<HeadersAction, Trap> {
        self.vm.on_headers(self.id, Half::Request, REQUEST.len() as u32, true)
    }

    pub(crate) fn on_response(&mut self) -> Result<HeadersAction, Trap> {
        self.stream.borrow_mut().response = Some(List::of(RESPONSE));
        self.vm.on_headers(self.id, Half::Response, RESPONSE.len() as u32, false)
    }

    /// The head of a half, with more to follow.
    pub(crate) fn head(&mut self, half: Half) -> HeadersAction {
        self.stream.borrow_mut().response = Some(List::of(RESPONSE));
        self.vm.on_headers(self.id, half, 1, false).unwrap()
    }

    /// The guest is shown these bytes of a half.
    pub(crate) fn body(&mut self, half: Half, bytes: &str, end: bool) -> BodyAnswer {
        self.set_body(half, bytes);
        self.vm.on_body(self.id, half, bytes.len(), end).unwrap()
    }

    pub(crate) fn set_body(&mut self, half: Half, bytes: &str) {
        self.stream.borrow_mut().bodies[half as usize] = Some(bytes.into());
    }

    /// What a body is now.
    pub(crate) fn text(&self, half: Half) -> String {
        String::from_utf8(self.stream.borrow().bodies[half as usize].clone().unwrap()).unwrap()
    }
}

/// Turns calls into WAT.
struct Writer {
    strings: Vec<u8>,
    imports: BTreeSet<String>,
}

impl Writer {
    fn block(&mut self, code: &str) -> String {
        let mut rest = code.trim();
        let mut out = String::new();
        while !rest.is_empty() {
            let (wat, after) = self.expression(rest);
            out.push_str(&wat);
            rest = after.trim_start().strip_prefix(';').unwrap_or_else(|| panic!("no ; before {after}")).trim_start();
        }
        out
    }

    fn expression<'c>(&mut self, code: &'c str) -> (String, &'c str) {
        let code = code.trim_start();
        if let Some(rest) = code.strip_prefix('"') {
            let (text, rest) = rest.split_once('"').unwrap();
            return (self.string(text), rest);
        }
        let end = code.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').unwrap_or(code.len());
        let (word, rest) = code.split_at(end);
        if let Some(number) = word.strip_suffix('L') {
            return (format!("(i64.const {number})"), rest);
        }
        if word.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            return (format!("(i32.const {word})"), rest);
        }
        if let Some(index) = word.strip_prefix('p').filter(|index| index.parse::<u32>().is_ok()) {
            return (format!("(local.get {index})"), rest);
        }
        let mut rest = rest.strip_prefix('(').unwrap_or_else(|| panic!("no ( after {word}")).trim_start();
        let mut arguments = String::new();
        while !rest.starts_with(')') {
            let (argument, after) = self.expression(rest);
            arguments.push_str(&argument);
            rest = after.trim_start().trim_start_matches(',').trim_start();
        }
        (self.call(word, &arguments), &rest[1..])
    }

    fn call(&mut self, word: &str, arguments: &str) -> String {
        match word {
            "num" | "text" | "recurse" | "bad" => format!("(call ${word} {arguments})"),
            "at" => format!("(i32.load {arguments})"),
            "put" => format!("(i32.store {arguments})"),
            "grow" => format!("(memory.grow {arguments})"),
            "return" | "drop" => format!("({word} {arguments})"),
            "trap" => "unreachable".into(),
            "forever" => "(loop $l (br $l))".into(),
            import => {
                self.imports.insert(import.to_owned());
                format!("(call ${import} {arguments})")
            }
        }
    }

    /// Pointer and size. `\0` in a string is a NUL.
    fn string(&mut self, text: &str) -> String {
        let text = text.replace("\\0", "\0").replace("\\n", "\n");
        let pointer = STRINGS + self.strings.len();
        self.strings.extend_from_slice(text.as_bytes());
        format!("(i32.const {pointer}) (i32.const {})", text.len())
    }
}

fn import(name: &str) -> String {
    let find = |table| abi::rows(table).find(|(other, _)| *other == name);
    let (module, ty) = match (find(abi::ENV), find(abi::WASI)) {
        (Some((_, ty)), _) => ("env", ty),
        (None, Some((_, ty))) => ("wasi_snapshot_preview1", ty),
        (None, None) => panic!("no import {name}"),
    };
    format!("(import \"{module}\" \"{name}\" (func ${name} {ty}))\n")
}

/// Hands out memory from the second page on, and never takes it back.
const BUMP: &str = "
(global $heap (mut i32) (i32.const 65536))
(func (export \"malloc\") (param $size i32) (result i32)
  (global.get $heap)
  (global.set $heap (i32.add (global.get $heap) (local.get $size))))";

const HELPERS: &str = "
(func $num (param $n i32) (local $p i32)
  (local.set $p (i32.const 63))
  (loop $l
    (i32.store8 (local.get $p) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
    (local.set $n (i32.div_u (local.get $n) (i32.const 10)))
    (local.set $p (i32.sub (local.get $p) (i32.const 1)))
    (br_if $l (local.get $n)))
  (drop (call $proxy_log (i32.const 2) (i32.add (local.get $p) (i32.const 1)) (i32.sub (i32.const 63) (local.get $p)))))
(func $text
  (drop (call $proxy_log (i32.const 2) (i32.load (i32.const 16)) (i32.load (i32.const 20)))))
(func $recurse (call $recurse))";
