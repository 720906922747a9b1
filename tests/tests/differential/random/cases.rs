//! Cases by chance: a request, and what one to three filters do with it.
//!
//! Left out is what nobody can compare: what depends on how a body is cut or on which of two things is quicker, what ends
//! Envoy or is its undefined behaviour (a second head, a body that is not as long as announced), and what
//! [`differences`](crate::differences) lists.

use fastrand::Rng;

use super::case::{Case, FIXED, Script};

/// Callbacks, in the order in which a filter has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    RequestHeaders,
    RequestBody,
    RequestTrailers,
    ResponseHeaders,
    ResponseBody,
    ResponseTrailers,
    Log,
    Done,
    Delete,
}

use Phase::{
    Delete, Done, Log, RequestBody, RequestHeaders, RequestTrailers, ResponseBody, ResponseHeaders, ResponseTrailers,
};

const PHASES: [Phase; 9] =
    [RequestHeaders, RequestBody, RequestTrailers, ResponseHeaders, ResponseBody, ResponseTrailers, Log, Done, Delete];

impl Phase {
    /// The section with what is done in it; that of bodies is for their end.
    fn section(self) -> &'static str {
        ["rq", "rqbe", "rqt", "rs", "rsbe", "rst", "lg", "dn", "dl"][self as usize]
    }

    fn is_request(self) -> bool {
        self < ResponseHeaders
    }

    /// The buffer of its half, and what `continue_stream` calls it.
    fn half(self) -> u32 {
        u32::from(!self.is_request())
    }

    /// The map that can be changed in it.
    fn map(self) -> u32 {
        [0, 1, 1, 2, 3, 3, 2, 2, 2][self as usize]
    }

    fn head(self) -> Phase {
        if self.is_request() { RequestHeaders } else { ResponseHeaders }
    }
}

/// What is to be made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kind {
    pub(crate) filters: usize,
    /// They hold their headers alone.
    pub(crate) alone: bool,
    /// Clients may speak HTTP/2.
    pub(crate) http2: bool,
}

/// Makes a case.
pub(crate) fn case(rng: &mut Rng, kind: Kind) -> Case {
    let mut maker =
        Maker { rng, kind, next: FIXED, case: Case::default(), message: Message::default(), replied: false };
    maker.request();
    maker.case.scripts = vec![Script::new(); kind.filters];
    for _ in 0..maker.rng.usize(1..=4) {
        let filter = maker.rng.usize(..kind.filters);
        maker.action(filter);
    }
    maker.case
}

/// What is known of both messages.
#[derive(Clone, Copy, Debug, Default)]
struct Message {
    head: bool,
    /// The request has content; it has trailers.
    body: bool,
    trailers: bool,
    /// The response may have content; it has trailers.
    answer_body: bool,
    answer_trailers: bool,
}

struct Maker<'a> {
    rng: &'a mut Rng,
    kind: Kind,
    next: u32,
    case: Case,
    message: Message,
    /// A filter answers.
    replied: bool,
}

impl Maker<'_> {
    fn part(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(..100) < percent
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.rng.usize(..of.len())]
    }

    fn word(&mut self, word: impl Into<String>) {
        let part = self.part();
        self.case.words.push((part, word.into()));
    }

    fn request(&mut self) {
        let method =
            self.one(&["GET", "GET", "GET", "POST", "POST", "POST", "POST", "PUT", "PUT", "PATCH", "DELETE", "HEAD"]);
        let path = match self.rng.u32(..100) {
            0..34 => "/back".to_owned(),
            34..40 => "/back?a=b&c".to_owned(),
            40..48 => "/drain".to_owned(),
            48..62 => format!("/bytes/{}", self.one(&[0, 1, 5, 1000, 70_000, 200_000])),
            62..74 => format!("/chunked/{}", self.one(&[1, 5, 1000, 70_000, 200_000])),
            74..86 => "/trailers".to_owned(),
            86..95 => format!("/status/{}", self.one(&[200, 201, 204, 304, 400, 404, 500])),
            95..97 => "/hints".to_owned(),
            97..99 => "/close".to_owned(),
            _ => "/large-head/3000".to_owned(),
        };
        self.message.head = method == "HEAD";
        self.message.answer_trailers = path == "/trailers" && method != "HEAD";
        self.message.answer_body =
            method != "HEAD" && !["/bytes/0", "/status/204", "/status/304"].contains(&path.as_str());
        let back = path.starts_with("/back");
        for word in [method, &path] {
            self.case.words.push((FIXED, word.to_owned()));
        }
        if path == "/trailers" {
            self.case.words.push((FIXED, "te:trailers".to_owned()));
        }
        for _ in 0..self.rng.u32(..4) {
            let field = self.one(&[
                "x-a:1",
                "x-a:2",
                "x-b:hello",
                "X-Mixed:Value",
                "x-empty:",
                "x-high:%E4",
                "cookie:a=1",
                "accept:*/*",
                "user-agent:tests",
                "referer:http://a/b",
                "content-type:text/plain",
                "content-type:application/grpc",
                "cache-control:no-cache",
                "authorization:Basic%20eA==",
            ]);
            if field.starts_with("x-a")
                || self.case.words.iter().all(|(_, word)| word.split(':').next() != field.split(':').next())
            {
                self.word(field);
            }
        }
        if self.kind.http2 && self.chance(50) {
            self.word("HTTP/2");
        }
        let likely = match method {
            "HEAD" => 0,
            "POST" | "PUT" | "PATCH" => 85,
            _ => 10,
        };
        if !self.chance(likely) {
            self.message.answer_body &= !back;
            return;
        }
        self.message.body = true;
        let size = self.one(&[0, 1, 5, 5, 10, 400, 1000, 16_384, 70_000, 300_000]);
        let part = self.part();
        if self.chance(50) {
            self.message.body = size > 0;
            self.message.answer_body &= !back || size > 0;
            self.case.words.push((part, format!("<#{size}")));
            return;
        }
        self.message.answer_body &= !back || size > 0;
        let chunks = if size == 0 { String::new() } else { vec![format!("#{size}"); self.rng.usize(1..4)].join("|") };
        self.case.words.push((part, format!("<<{chunks}")));
        if self.chance(40) {
            self.message.trailers = true;
            self.case.words.push((part, ">>x-t:1".to_owned()));
            if self.chance(40) {
                self.word(">>x-u:2");
            }
        }
    }

    /// One thing that a filter does, somewhere.
    fn action(&mut self, filter: usize) {
        let phase = self.phase();
        let pausable = phase < Log;
        let part = self.part();
        match self.rng.u32(..100) {
            0..45 => self.steps(filter, phase),
            45..60 if pausable => self.pause(filter, phase),
            60..70 if matches!(phase, RequestBody | ResponseBody) => self.pieces(filter, phase, part),
            70..80 if self.may_reply(phase) => self.reply(filter, phase, part),
            // Over HTTP/2 a reset says it, which has its own number there.
            80..82 if phase.is_request() && !self.replied && !self.message.head && !self.kind.http2 => {
                self.replied = true;
                let half = phase.half();
                self.add(filter, phase, part, &[format!("close {half}"), "ret 1".to_owned()]);
            }
            _ => self.steps(filter, phase),
        }
    }

    /// One that there will be, mostly.
    fn phase(&mut self) -> Phase {
        loop {
            let phase = self.one(&PHASES);
            let there = match phase {
                RequestBody => self.message.body && !self.message.trailers,
                RequestTrailers => self.message.trailers,
                ResponseBody => self.message.answer_body && !self.message.answer_trailers,
                ResponseTrailers => self.message.answer_trailers,
                Done | Delete => self.chance(40),
                _ => true,
            };
            if there || self.chance(3) {
                return phase;
            }
        }
    }

    fn section(&mut self, filter: usize, name: &str) -> &mut Vec<(u32, String)> {
        let script = &mut self.case.scripts[filter];
        let at = script.iter().position(|(own, _)| own == name).unwrap_or_else(|| {
            script.push((name.to_owned(), Vec::new()));
            script.len() - 1
        });
        &mut script[at].1
    }

    fn has(&self, filter: usize, name: &str) -> bool {
        self.case.scripts[filter].iter().any(|(own, _)| own == name)
    }

    /// Adds steps to a callback; of a body this is the last one, which sees all of it, or that of its trailers.
    fn add(&mut self, filter: usize, phase: Phase, part: u32, steps: &[String]) {
        if matches!(phase, RequestBody | ResponseBody) {
            let name = ["rqb", "rsb"][phase.half() as usize];
            if !self.has(filter, name) && (self.has(filter, &format!("{name}1")) || self.has(filter, phase.section())) {
                return;
            }
            self.whole(filter, phase);
        }
        self.section(filter, phase.section()).extend(steps.iter().map(|step| (part, step.clone())));
    }

    /// Has a filter wait for all of a body.
    fn whole(&mut self, filter: usize, phase: Phase) {
        let name = ["rqb", "rsb"][phase.half() as usize];
        if !self.has(filter, name) {
            self.section(filter, name).push((FIXED, "ret 1".to_owned()));
            self.section(filter, phase.section()).push((FIXED, "ret 0".to_owned()));
        }
    }

    /// Has a filter see a body piece by piece, and change where it begins or ends.
    fn pieces(&mut self, filter: usize, phase: Phase, part: u32) {
        let half = phase.half();
        let name = ["rqb", "rsb"][half as usize];
        let (first, last) = (format!("{name}1"), format!("{name}e"));
        if [name, &first, &last].iter().any(|own| self.has(filter, own)) {
            return self.steps(filter, phase);
        }
        self.any_length(filter, phase, part);
        let (section, step) = match self.rng.u32(..2) {
            0 => (first, format!("setbuf {half} 0 0 first")),
            _ => (last, format!("setbuf {half} 999999 0 last")),
        };
        self.section(filter, &section).push((part, step));
    }

    /// Takes the length of a message away, which will be another.
    fn any_length(&mut self, filter: usize, phase: Phase, part: u32) {
        let head = phase.head();
        if !(self.message.head && head == ResponseHeaders) {
            self.add(filter, head, part, &[format!("rem {} content-length", head.map())]);
        }
    }

    /// Has a callback stop, and something else let it go on.
    fn pause(&mut self, filter: usize, phase: Phase) {
        let name = format!("go{}", phase as usize);
        if self.has(filter, &name) || self.stops(filter, phase) {
            return self.steps(filter, phase);
        }
        let body = if phase == RequestHeaders { self.message.body } else { self.message.answer_body };
        if self.kind.alone && phase == phase.head() && body {
            return self.hold(filter, phase);
        }
        let part = self.part();
        let begin = if self.chance(60) {
            format!("later {name}")
        } else {
            let path = self.one(&["/bytes/5", "/status/404", "/drain", "/trailers", "/chunked/3"]);
            let body = self.one(&["", " 5000 hello", " 5000 ~ x-t=1"]);
            let method = if body.is_empty() { "GET" } else { "POST" };
            format!("call other :method={method}&:path={path}&:authority=other {name}{body}")
        };
        let called = begin.starts_with("call");
        self.add(filter, phase, part, &[begin, "ret 1".to_owned()]);
        if called && self.chance(60) {
            let step = self.one(&["get 6 :status", "buf 4 0 9", "pairs 7", "get 6 content-length", "names 6"]);
            let own = self.part();
            self.section(filter, &name).push((own, step.to_owned()));
        }
        self.section(filter, &name).push((part, "eff".to_owned()));
        for _ in 0..self.rng.u32(..3) {
            let own = self.part();
            let steps = self.some(filter, phase, own);
            self.section(filter, &name).extend(steps.into_iter().map(|step| (own, step)));
        }
        let end = if self.may_reply(phase) && self.chance(15) {
            self.replied = true;
            self.answer()
        } else {
            format!("cont {}", phase.half())
        };
        self.section(filter, &name).push((part, end));
    }

    /// What becomes of an answer that comes behind the head of another depends on whether that was written.
    fn may_reply(&self, phase: Phase) -> bool {
        !self.replied && phase <= ResponseHeaders
    }

    /// Whether a callback ends otherwise than by going on.
    fn stops(&self, filter: usize, phase: Phase) -> bool {
        let section = self.case.scripts[filter].iter().find(|(own, _)| own == phase.section());
        section.is_some_and(|(_, steps)| steps.iter().any(|(_, step)| step == "ret 1"))
    }

    /// Has a filter hold its headers until all of the body is there.
    fn hold(&mut self, filter: usize, phase: Phase) {
        let body = if phase == RequestHeaders { RequestBody } else { ResponseBody };
        let part = self.part();
        self.whole(filter, body);
        self.section(filter, phase.section()).push((part, "ret 1".to_owned()));
        for _ in 0..self.rng.u32(..3) {
            let own = self.part();
            let steps = self.some(filter, phase, own);
            let steps = steps.into_iter().map(|step| (own, step));
            self.section(filter, body.section()).splice(0..0, steps);
        }
    }

    /// Has a filter answer.
    fn reply(&mut self, filter: usize, phase: Phase, part: u32) {
        if self.stops(filter, phase) {
            return self.steps(filter, phase);
        }
        self.replied = true;
        let answer = self.answer();
        self.add(filter, phase, part, &[answer, "ret 1".to_owned()]);
    }

    fn answer(&mut self) -> String {
        let status = self.one(&[200, 201, 301, 401, 403, 404, 418, 429, 500, 503]);
        let details = self.one(&["~", "why", "so%20it%20is"]);
        // Who holds a head alone waits for content.
        let body = if self.kind.alone { "no" } else { self.one(&["~", "no", "hello%0A", "@70000"]) };
        let fields = self.one(&["~", "x-a=1", "x-a=1&x-a=2", "content-type=application/json", "X-Upper=1&location=/x"]);
        let grpc = self.one(&["", "", "", " 5", " 0"]);
        format!("reply {status} {details} {body} {fields}{grpc}")
    }

    /// Some steps in a callback.
    fn steps(&mut self, filter: usize, phase: Phase) {
        for _ in 0..self.rng.u32(1..=3) {
            let part = self.part();
            let steps = self.some(filter, phase, part);
            self.add(filter, phase, part, &steps);
        }
    }

    /// A step or some that belong together.
    fn some(&mut self, filter: usize, phase: Phase, part: u32) -> Vec<String> {
        let kind = match phase {
            // What can be reached of the messages then is no contract.
            Done | Delete => self.rng.u32(60..100),
            Log => self.one(&[100, 100, 100, 60, 65, 70, 76, 80, 84, 88, 92]),
            _ => self.rng.u32(..100),
        };
        let step = match kind {
            100 => {
                let map = self.one(&[0, 2, 2, 3]);
                let map = if map == 3 && !self.message.answer_trailers { 2 } else { map };
                self.reading(map, phase >= Log)
            }
            0..35 if matches!(phase, RequestBody | ResponseBody) => {
                self.reading(if phase == RequestBody { 0 } else { 2 }, false)
            }
            0..35 => self.map_step(phase, phase.map()),
            // Of the other maps, those that are not there yet.
            35..45 if phase.is_request() => {
                let map = self.one(&[2, 3]);
                self.reading(map, false)
            }
            35..45 => self.reading(2, false),
            45..60 => return self.buffer_step(filter, phase, part),
            60..75 => self.property(phase),
            75..80 => return vec![format!("setprop mine{} v{}", self.rng.u32(..2), self.rng.u32(..3))],
            80..88 => {
                let key = format!("{{case}}{}", self.rng.u32(..2));
                let set = self.one(&["v 0", "w c", "~ 0"]);
                return match self.rng.u32(..3) {
                    0 => vec![format!("sget {key}"), format!("sset {key} {set}"), format!("sget {key}")],
                    1 => vec![format!("sget {key}")],
                    _ => vec![format!("sset {key} {}", self.one(&["v 0", "w 0", "@1000 0"]))],
                };
            }
            88..94 => {
                let kind = self.rng.u32(..2);
                let name = format!("mdef {kind} r{filter}{}", self.rng.u32(..3));
                let change = self.one(&["minc m 1", "minc m 41", "mrec m 8", "minc m -1", "mrec m 0"]);
                return vec![name, change.to_owned(), "mget m".to_owned()];
            }
            94..96 => {
                return vec!["qreg rq", "qenq q a", "qdeq q", "qdeq q"].into_iter().map(str::to_owned).collect();
            }
            96..98 if phase < Log => "eff root, get 0 :path, eff own".to_owned(),
            98 => "ff compress hello, ff uncompress $".to_owned(),
            _ => self.one(&["time", "level", "log 2 {case}%20said", "done", "status"]).to_owned(),
        };
        vec![step]
    }

    fn name(&mut self, map: u32) -> &'static str {
        if map == 1 || map == 3 {
            return self.one(&["x-t", "x-u", "x-n", "x-checksum", "x-count", "X-T"]);
        }
        self.one(&["x-a", "x-b", "X-A", "x-new", "x-new", "x-app", "x-empty", "set-cookie"])
    }

    fn reading(&mut self, map: u32, after: bool) -> String {
        let name = match (map, self.rng.u32(..3)) {
            (0, 0) => self.one(&[":path", ":method", ":authority", ":scheme", "host", "content-type", "cookie"]),
            (2, 0) => self.one(&[":status", "content-length", "content-type", "etag", "location"]),
            _ => self.name(map),
        };
        match self.rng.u32(..10) {
            0..6 => format!("get {map} {name}"),
            6..8 => format!("pairs {map}"),
            8 if !after => format!("size {map}"),
            _ => format!("names {map}"),
        }
    }

    /// Reads or changes a map.
    fn map_step(&mut self, phase: Phase, map: u32) -> String {
        let name = self.name(map);
        let value = self.one(&["1", "2", "a%20b", "~", "%E4%FF", "@200", "a%2Cb", "%22q%22"]);
        match self.rng.u32(..100) {
            0..25 => self.reading(map, phase >= Log),
            25..50 => format!("add {map} {name} {value}"),
            50..68 => format!("rep {map} {name} {value}"),
            68..82 => format!("rem {map} {name}"),
            82..86 if map == 1 || map == 3 => format!("set {map} {}", self.one(&["a=1&b=2", "x-t=9", "~"])),
            // Another service is not reached over HTTP/2.
            82..84 if phase == RequestHeaders && !self.kind.alone && !self.kind.http2 => {
                self.one(&["rep 0 :authority other", "rep 0 host other"]).to_owned()
            }
            82..90 if phase == RequestHeaders && !self.kind.alone => self
                .one(&[
                    "rep 0 :path /back?changed",
                    "rep 0 :path /bytes/7",
                    "rep 0 :path /drain",
                    "rep 0 user-agent mine",
                    "rem 0 user-agent",
                    "rem 0 cookie",
                    "rep 0 content-type text/html",
                    "rep 0 :scheme https",
                ])
                .to_owned(),
            82..90 if phase == ResponseHeaders => self
                .one(&[
                    "rep 2 :status 201",
                    "rep 2 :status 404",
                    "rep 2 :status 503",
                    "rep 2 content-type text/html",
                    "rem 2 content-type",
                    "add 2 location /there",
                    "rem 2 etag",
                ])
                .to_owned(),
            90..93 if phase == ResponseHeaders && !self.message.head => "rem 2 content-length".to_owned(),
            90..93 if phase == RequestHeaders && self.message.body => "rem 0 content-length".to_owned(),
            _ => self.reading(map, phase >= Log),
        }
    }

    fn buffer_step(&mut self, filter: usize, phase: Phase, part: u32) -> Vec<String> {
        let half = if self.chance(90) { phase.half() } else { 1 - phase.half() };
        let own = half == phase.half();
        let held = matches!(phase, RequestBody | ResponseBody | RequestTrailers | ResponseTrailers);
        if held && own && self.chance(60) {
            let body = if half == 0 { RequestBody } else { ResponseBody };
            let name = ["rqb", "rsb"][half as usize];
            if !self.has(filter, name) && (self.has(filter, &format!("{name}1")) || self.has(filter, body.section())) {
                return vec!["time".to_owned()];
            }
            self.whole(filter, body);
            self.any_length(filter, phase, part);
            let set = match self.rng.u32(..8) {
                0 => "0 0 before",
                1 => "999999 0 after",
                2 => "0 999999 other",
                3 => "0 999999 ~",
                4 => "0 2 22",
                5 => "0 1 @1000",
                6 => "0 999999 @200000",
                _ => "3 0 inside",
            };
            return vec![format!("setbuf {half} {set}")];
        }
        // What is there without a body that is held depends on how it came.
        if held
            && own
            && !self.has(filter, ["rqb", "rsb"][half as usize])
            && !matches!(phase, RequestBody | ResponseBody)
        {
            return vec!["time".to_owned()];
        }
        vec![match self.rng.u32(..5) {
            0 => format!("buf {half} 0 100"),
            1 => format!("buf {half} 2 3"),
            2 => format!("buf {half} 999999 1"),
            3 => format!("buf {half} 1 4294967295"),
            _ => format!("bufstat {half}"),
        }]
    }

    fn property(&mut self, phase: Phase) -> String {
        let any = ["mine0", "mine1", "plugin_name", "plugin_root_id", "xds.node.id", "nothing", "connection.mtls"];
        let more: &[&str] = match phase {
            RequestHeaders => &[
                "request.path",
                "request.url_path",
                "request.query",
                "request.host",
                "request.method",
                "request.scheme",
                "request.protocol",
                "request.headers.x-a",
                "request.useragent",
                "request.referer",
                "response.code",
            ],
            ResponseHeaders => &["response.headers.x-app", "response.headers.x-a", "response.code"],
            Log => &[
                "request.path",
                "request.method",
                "request.headers.x-a",
                "response.code",
                "response.code_details",
                "response.flags",
                "response.size",
                "request.size",
                "response.grpc_status",
            ],
            _ => &[],
        };
        let path = if more.is_empty() || self.chance(30) { self.one(&any) } else { self.one(more) };
        format!("prop {path}")
    }
}
