//! Cases: some requests, and what a filter should do with each. `lacis filter test` runs them.

use serde_json::Value;

/// The cases of one file.
#[derive(Clone, Debug, PartialEq)]
pub struct Cases {
    /// How the filter is started.
    pub subject: Subject,
    /// In the order of the file; at least one.
    pub cases: Vec<Case>,
}

/// How a filter is started, as in the sidecar's own file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// `plugin_root_id`.
    pub root_id: String,
    /// What the VM reads as its configuration.
    pub vm_config: Vec<u8>,
    /// Environment variables of the VM.
    pub env: Vec<(String, String)>,
    /// A pause at the headers holds only these.
    pub head_waits_alone: bool,
}

/// A place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// One request through a filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Its name, which no other case of the file has.
    pub name: String,
    /// Where it stands.
    pub spot: Spot,
    /// What the filter reads as its configuration.
    pub config: Vec<u8>,
    /// It goes on in the VM of the case before it.
    pub continues: bool,
    /// How often the request is sent, at least once; what is expected is of the last time.
    pub repeat: u32,
    /// What time it is, in nanoseconds since 1970.
    pub now: Option<u64>,
    /// How often the filter's timer goes off before the request.
    pub ticks: u32,
    /// What the filter can read of the exchange: paths, their segments joined by NUL, and values as the ABI has them.
    pub properties: Vec<(Vec<u8>, Vec<u8>)>,
    /// What is in the shared data when the filter starts.
    pub shared_data: Vec<(String, Vec<u8>)>,
    /// What services answer when the filter calls them.
    pub answers: Vec<Answer>,
    /// The request.
    pub request: Message,
    /// What the service answers, if the request gets there.
    pub response: Message,
    /// What should come of it.
    pub expect: Vec<Expectation>,
}

/// A request or a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Pseudo-headers and header lines.
    pub head: Vec<(String, String)>,
    /// The pieces of the body, as they come.
    pub body: Vec<Vec<u8>>,
    /// Trailers.
    pub trailers: Vec<(String, String)>,
}

/// What comes of a call of the filter's.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The service that is called.
    pub service: String,
    /// The path, where only a call of it is answered so; of gRPC `/package.Service/Method`.
    pub path: Option<String>,
    /// What it gets.
    pub outcome: Answered,
}

/// See [`Answer`].
#[derive(Clone, Debug, PartialEq)]
pub enum Answered {
    /// A response.
    Http(Message),
    /// Messages, and then a status with its text.
    Grpc {
        /// Without framing.
        messages: Vec<Vec<u8>>,
        /// 0 to 16.
        status: u32,
        /// May be empty.
        text: String,
    },
    /// Nothing: the connection breaks.
    Failure,
}

/// What should come of a case.
#[derive(Clone, Debug, PartialEq)]
pub struct Expectation {
    /// Where it stands.
    pub spot: Spot,
    /// What it is.
    pub what: Expected,
}

/// See [`Expectation`].
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// The end of the exchange.
    Outcome(Outcome),
    /// The values of a header or a trailer, in their order; none: it is not there.
    Field {
        /// Of which message.
        of: Whose,
        /// A trailer.
        trailer: bool,
        /// In lower case; pseudo-headers too.
        name: String,
        /// Its values.
        values: Vec<String>,
    },
    /// A whole body.
    Body {
        /// Of which message.
        of: Whose,
        /// What it is.
        body: Content,
    },
    /// How many calls the filter makes.
    Calls(usize),
    /// The service that a call is to, by the position of the call.
    Service(usize, String),
    /// A text that is in a line of the filter's log.
    Log(String),
    /// The value of a metric; of a histogram the sum of its samples.
    Metric(String, u64),
    /// A value of the shared data.
    Shared(String, Content),
    /// The value of a property, by its path.
    Property(Vec<u8>, Vec<u8>),
}

/// Whose message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The request as the service gets it.
    Request,
    /// The response as the client gets it.
    Response,
    /// A call of the filter's, by its position.
    Call(usize),
}

/// How an exchange can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request went to the service, and its response to the client.
    Continue,
    /// The filter answered by itself.
    Reply,
    /// The filter closed the stream.
    Reset,
    /// The filter did not take its configuration.
    Refused,
}

/// What bytes should be.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// These.
    Bytes(Vec<u8>),
    /// JSON of this meaning.
    Json(Value),
}
