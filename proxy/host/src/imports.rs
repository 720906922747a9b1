//! The table of imports: name, type and function of everything a module may import, for every version of the ABI.

use wasmtime::{Caller, FuncType, Linker, ValType};

use crate::calls::wasi::{self, BADF, NOENT, NOSYS, NOTSUP};
use crate::calls::{
    IntoResult, When, Words, buffers, callout, foreign, headers, into_nothing, into_words, metrics, misc, permit,
    property, shared, stream, turn,
};
use crate::joint::RESULTS;
use crate::state::State;

/// One import as one type of it: a name may stand in the table several times.
pub(crate) struct Import {
    pub(crate) name: &'static str,
    parameters: &'static [Word],
    back: Back,
    pub(crate) define: fn(&mut Linker<State>, &str) -> wasmtime::Result<()>,
}

/// Type of a parameter. The ABI has only these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    I32,
    I64,
}

/// What goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    Nothing,
    /// A status, or another number.
    Number,
    /// What the guest is to put into a block of its own ([`Given`](crate::memory::Given)). Modules are given such imports in the
    /// place of those that they name (`joint.rs`).
    Bytes,
}

/// `import!(when name(parameter: type, …) = function)`, or `in call => expression` where the function takes less than the
/// import does, or `in call at step => expression` where it takes more; `void` before it for an import without a result, `give` for one whose bytes the guest takes by itself.
macro_rules! import {
    ($when:ident $name:ident($($arg:ident: $ty:ident),*) = $function:path) => {
        import!($when $name($($arg: $ty),*) in call => $function(call, $($arg),*))
    };
    ($when:ident $name:ident($($arg:ident: $ty:ident),*) in $call:ident => $body:expr) => {
        import!($when $name($($arg: $ty),*) in $call at step => $body)
    };
    ($when:ident $name:ident($($arg:ident: $ty:ident),*) in $call:ident at $step:ident => $body:expr) => {
        import!(@ $when $name($($arg: $ty),*) $call, $step, $body, Number, u32, IntoResult::into_result)
    };
    (void $when:ident $name:ident($($arg:ident: $ty:ident),*) = $function:path) => {
        import!(@ $when $name($($arg: $ty),*) call, step, $function(call, $($arg),*), Nothing, (), into_nothing)
    };
    (give $when:ident $name:ident($($arg:ident: $ty:ident),*) = $function:path) => {
        import!(@ $when $name($($arg: $ty),*) call, step, $function(call, $($arg),*), Bytes, Words, into_words)
    };
    (@ $when:ident $name:ident($($arg:ident: $ty:ident),*) $call:ident, $step:ident, $body:expr, $back:ident, $result:ty, $into:expr) => {
        Import {
            name: stringify!($name),
            parameters: &[$(import!(@word $ty)),*],
            back: Back::$back,
            define: |linker, module| {
                let function = |mut caller: Caller<'_, State>, $($arg: $ty,)* $step: u32| -> wasmtime::Result<$result> {
                    permit(&mut caller, When::$when, stringify!($name), $step)?;
                    let $call = &mut caller;
                    $into($body)
                };
                linker.func_wrap(module, stringify!($name), function).map(drop)
            },
        }
    };
    (@word u32) => { Word::I32 };
    (@word u64) => { Word::I64 };
}

/// The ABI and what emscripten adds, module `env`.
#[rustfmt::skip]
pub(crate) const ENV: &[Import] = &[
    import!(void Always emscripten_notify_memory_growth(index: u32) = misc::memory_growth),
    import!(Always pthread_equal(one: u32, other: u32) = misc::pthread_equal),

    import!(Always proxy_log(level: u32, text: u32, size: u32) in call at step => misc::log(call, level, text, size, step)),
    import!(Start proxy_get_log_level(level: u32) = misc::log_level),
    import!(Start proxy_get_current_time_nanoseconds(time: u32) = misc::time),
    import!(Callback proxy_set_tick_period_milliseconds(milliseconds: u32) = misc::set_tick),

    import!(Callback proxy_get_configuration(pointer: u32, size: u32) = buffers::configuration),
    import!(Callback proxy_get_buffer_bytes(buffer: u32, start: u32, max: u32, pointer: u32, size: u32) = buffers::bytes),
    import!(Callback proxy_get_buffer_status(buffer: u32, length: u32, flags: u32) = buffers::status),
    import!(Callback proxy_set_buffer_bytes(buffer: u32, start: u32, length: u32, data: u32, size: u32) = buffers::set),

    import!(Callback proxy_get_header_map_size(map: u32, size: u32) = headers::size),
    import!(Callback proxy_get_header_map_pairs(map: u32, pointer: u32, size: u32) = headers::pairs),
    import!(Callback proxy_set_header_map_pairs(map: u32, pointer: u32, size: u32) in call => turn::edited(call, |call| headers::set_pairs(call, map, pointer, size))),
    import!(Callback proxy_get_header_map_value(map: u32, name: u32, name_size: u32, pointer: u32, size: u32) = headers::value),
    import!(give Callback proxy_get_header_map_value(map: u32, name: u32, name_size: u32, pointer: u32, size: u32) = headers::few),
    import!(Callback proxy_add_header_map_value(map: u32, name: u32, name_size: u32, value: u32, value_size: u32) in call => turn::edited(call, |call| headers::add(call, map, name, name_size, value, value_size))),
    import!(Callback proxy_replace_header_map_value(map: u32, name: u32, name_size: u32, value: u32, value_size: u32) in call => turn::edited(call, |call| headers::replace(call, map, name, name_size, value, value_size))),
    import!(Callback proxy_remove_header_map_value(map: u32, name: u32, name_size: u32) in call => turn::edited(call, |call| headers::remove(call, map, name, name_size))),

    import!(Last proxy_send_local_response(status: u32, details: u32, details_size: u32, body: u32, body_size: u32, headers: u32, headers_size: u32, grpc_status: u32) = stream::reply),
    import!(Last proxy_continue_stream(stream: u32) = stream::resume),
    import!(Last proxy_close_stream(stream: u32) = stream::close),
    import!(Last proxy_continue_request() = stream::resume_request),
    import!(void Last proxy_continue_request() = stream::resume_request),
    import!(Last proxy_continue_response() = stream::resume_response),
    import!(void Last proxy_continue_response() = stream::resume_response),
    import!(Last proxy_clear_route_cache() = foreign::clear_route_cache),
    import!(void Last proxy_clear_route_cache() = foreign::clear_route_cache),
    import!(Last proxy_set_effective_context(context: u32) = stream::set_effective_context),
    import!(Last proxy_done() = stream::done),

    import!(Callback proxy_get_property(path: u32, path_size: u32, pointer: u32, size: u32) = property::read),
    import!(give Callback proxy_get_property(path: u32, path_size: u32, pointer: u32, size: u32) = property::few),
    import!(Callback proxy_set_property(path: u32, path_size: u32, value: u32, value_size: u32) = property::write),

    import!(Callback proxy_get_shared_data(key: u32, key_size: u32, pointer: u32, size: u32, cas: u32) = shared::get),
    import!(Callback proxy_set_shared_data(key: u32, key_size: u32, value: u32, value_size: u32, cas: u32) = shared::set),

    import!(Callback proxy_define_metric(kind: u32, name: u32, name_size: u32, id: u32) = metrics::define),
    import!(Callback proxy_increment_metric(id: u32, delta: u64) = metrics::increment),
    import!(Callback proxy_record_metric(id: u32, value: u64) = metrics::record),
    import!(Callback proxy_get_metric(id: u32, value: u32) = metrics::read),

    import!(Callback proxy_register_shared_queue(name: u32, size: u32, id: u32) = shared::register),
    import!(Callback proxy_resolve_shared_queue(vm_id: u32, vm_id_size: u32, name: u32, name_size: u32, id: u32) = shared::resolve),
    import!(Callback proxy_enqueue_shared_queue(id: u32, item: u32, size: u32) = shared::enqueue),
    import!(Callback proxy_dequeue_shared_queue(id: u32, pointer: u32, size: u32) = shared::dequeue),

    import!(Last proxy_http_call(upstream: u32, upstream_size: u32, headers: u32, headers_size: u32, body: u32, body_size: u32, trailers: u32, trailers_size: u32, timeout: u32, id: u32) = callout::http_call),
    import!(Last proxy_grpc_call(upstream: u32, upstream_size: u32, service: u32, service_size: u32, method: u32, method_size: u32, metadata: u32, metadata_size: u32, message: u32, message_size: u32, timeout: u32, id: u32) = callout::grpc_call),
    // AssemblyScript has no metadata.
    import!(Last proxy_grpc_call(upstream: u32, upstream_size: u32, service: u32, service_size: u32, method: u32, method_size: u32, message: u32, message_size: u32, timeout: u32, id: u32) in call => callout::grpc_call(call, upstream, upstream_size, service, service_size, method, method_size, 0, 0, message, message_size, timeout, id)),
    import!(Last proxy_grpc_stream(upstream: u32, upstream_size: u32, service: u32, service_size: u32, method: u32, method_size: u32, metadata: u32, metadata_size: u32, id: u32) = callout::grpc_stream),
    import!(Last proxy_grpc_stream(upstream: u32, upstream_size: u32, service: u32, service_size: u32, method: u32, method_size: u32, id: u32) in call => callout::grpc_stream(call, upstream, upstream_size, service, service_size, method, method_size, 0, 0, id)),
    import!(Last proxy_grpc_send(id: u32, message: u32, size: u32, end: u32) = callout::grpc_send),
    import!(Last proxy_grpc_cancel(id: u32) = callout::grpc_cancel),
    import!(Last proxy_grpc_close(id: u32) = callout::grpc_close),
    import!(Callback proxy_get_status(code: u32, text: u32, size: u32) = callout::status),
    import!(Last proxy_call_foreign_function(name: u32, name_size: u32, arguments: u32, arguments_size: u32, pointer: u32, size: u32) = foreign::call),
];

/// WASI preview 1, modules `wasi_snapshot_preview1` and `wasi_unstable`.
#[rustfmt::skip]
pub(crate) const WASI: &[Import] = &[
    import!(Always fd_write(fd: u32, vectors: u32, count: u32, written: u32) in call at step => wasi::fd_write(call, fd, vectors, count, written, step)),
    import!(Always clock_time_get(clock: u32, precision: u64, time: u32) = wasi::clock_time_get),
    import!(Always poll_oneoff(input: u32, output: u32, count: u32, events: u32) = wasi::poll_oneoff),
    import!(void Always proc_exit(code: u32) = wasi::proc_exit),

    import!(Start args_get(_pointers: u32, _buffer: u32) in _call => wasi::inert(0)),
    import!(Start args_sizes_get(count: u32, bytes: u32) = wasi::args_sizes_get),
    import!(Start environ_get(pointers: u32, buffer: u32) = wasi::environ_get),
    import!(Start environ_sizes_get(count: u32, bytes: u32) = wasi::environ_sizes_get),
    import!(Start clock_res_get(clock: u32, resolution: u32) = wasi::clock_res_get),
    import!(Start random_get(pointer: u32, size: u32) = wasi::random_get),
    import!(Start sched_yield() in _call => wasi::inert(0)),
    import!(Start proc_raise(_signal: u32) in _call => wasi::inert(NOTSUP)),

    import!(Start fd_advise(_fd: u32, _offset: u64, _length: u64, _advice: u32) in _call => wasi::inert(0)),
    import!(Start fd_allocate(fd: u32, _offset: u64, _length: u64) in call => wasi::on_output(call, fd)),
    import!(Start fd_close(fd: u32) = wasi::fd_close),
    import!(Start fd_datasync(fd: u32) = wasi::on_output),
    import!(Start fd_fdstat_get(fd: u32, stat: u32) = wasi::fd_fdstat_get),
    import!(Start fd_fdstat_set_flags(_fd: u32, _flags: u32) in _call => wasi::inert(NOSYS)),
    import!(Start fd_fdstat_set_rights(fd: u32, _base: u64, _inheriting: u64) in call => wasi::on_output(call, fd)),
    import!(Start fd_filestat_get(_fd: u32, _stat: u32) in _call => wasi::inert(BADF)),
    import!(Start fd_filestat_set_size(fd: u32, _size: u64) in call => wasi::on_output(call, fd)),
    import!(Start fd_filestat_set_times(fd: u32, _access: u64, _change: u64, _flags: u32) in call => wasi::on_output(call, fd)),
    import!(Start fd_pread(_fd: u32, _vectors: u32, _count: u32, _at: u64, _read: u32) in _call => wasi::inert(NOSYS)),
    import!(Start fd_prestat_dir_name(_fd: u32, _path: u32, _size: u32) in _call => wasi::inert(NOSYS)),
    import!(Start fd_prestat_get(_fd: u32, _stat: u32) in _call => wasi::inert(BADF)),
    import!(Start fd_pwrite(fd: u32, vectors: u32, count: u32, at: u64, written: u32) in call at step => wasi::fd_pwrite(call, fd, vectors, count, at, written, step)),
    import!(Start fd_read(_fd: u32, _vectors: u32, _count: u32, _read: u32) in _call => wasi::inert(NOSYS)),
    import!(Start fd_readdir(fd: u32, buffer: u32, size: u32, cookie: u64, used: u32) = wasi::fd_readdir),
    import!(Start fd_renumber(fd: u32, to: u32) = wasi::fd_renumber),
    import!(Start fd_seek(fd: u32, offset: u64, whence: u32, position: u32) = wasi::fd_seek),
    import!(Start fd_sync(fd: u32) = wasi::on_output),
    import!(Start fd_tell(fd: u32, position: u32) = wasi::fd_tell),

    import!(Start path_create_directory(_fd: u32, _path: u32, _size: u32) in _call => wasi::inert(NOTSUP)),
    import!(Start path_filestat_get(_fd: u32, _flags: u32, _path: u32, _size: u32, _stat: u32) in _call => wasi::inert(NOTSUP)),
    import!(Start path_filestat_set_times(_fd: u32, _flags: u32, _path: u32, _size: u32, _access: u64, _change: u64, _which: u32) in _call => wasi::inert(NOTSUP)),
    import!(Start path_link(_fd: u32, _flags: u32, _path: u32, _size: u32, _to: u32, _new: u32, _new_size: u32) in _call => wasi::inert(NOTSUP)),
    import!(Start path_open(_fd: u32, _flags: u32, _path: u32, _size: u32, _open: u32, _rights: u64, _inheriting: u64, _fdflags: u32, _opened: u32) in _call => wasi::inert(NOENT)),
    import!(Start path_readlink(_fd: u32, _path: u32, _size: u32, _buffer: u32, _room: u32, _used: u32) in _call => wasi::inert(NOTSUP)),
    import!(Start path_remove_directory(_fd: u32, _path: u32, _size: u32) in _call => wasi::inert(NOTSUP)),
    import!(Start path_rename(_fd: u32, _path: u32, _size: u32, _to: u32, _new: u32, _new_size: u32) in _call => wasi::inert(NOTSUP)),
    import!(Start path_symlink(_path: u32, _size: u32, _fd: u32, _new: u32, _new_size: u32) in _call => wasi::inert(NOTSUP)),
    import!(Start path_unlink_file(_fd: u32, _path: u32, _size: u32) in _call => wasi::inert(NOTSUP)),

    import!(Start sock_accept(_fd: u32, _flags: u32, _accepted: u32) in _call => wasi::inert(NOTSUP)),
    import!(Start sock_recv(_fd: u32, _vectors: u32, _count: u32, _flags: u32, _read: u32, _out: u32) in _call => wasi::inert(NOTSUP)),
    import!(Start sock_send(_fd: u32, _vectors: u32, _count: u32, _flags: u32, _written: u32) in _call => wasi::inert(NOTSUP)),
    import!(Start sock_shutdown(_fd: u32, _how: u32) in _call => wasi::inert(NOTSUP)),
];

impl Import {
    pub(crate) fn has_type(&self, ty: &FuncType) -> bool {
        let results = ty.results();
        let back = match self.back {
            Back::Nothing => results.len() == 0,
            Back::Number => results.len() == 1 && results.into_iter().all(|ty| matches!(ty, ValType::I32)),
            Back::Bytes => results.len() == RESULTS && results.into_iter().all(|ty| matches!(ty, ValType::I64)),
        };
        let parameters = ty.params().map(|parameter| match parameter {
            ValType::I32 => Some(Word::I32),
            ValType::I64 => Some(Word::I64),
            _ => None,
        });
        back && parameters.eq(self.parameters.iter().copied().map(Some))
    }
}
