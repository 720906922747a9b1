//! The imports of Proxy-Wasm ABI 0.2.1 as they are, so that every status is seen: SDKs panic on most of them.

macro_rules! imports {
    ($($name:ident($($arg:ident: $type:ty),*);)+) => {
        #[link(wasm_import_module = "env")]
        unsafe extern "C" {
            $(fn $name($($arg: $type),*) -> u32;)+
        }

        /// Calls an import by its name without `proxy_`, with these numbers as arguments; missing ones are 0.
        pub fn call(name: &str, args: &[u64]) -> Option<u32> {
            let mut args = args.iter().copied();
            Some(match name {
                $(name if name == &stringify!($name)["proxy_".len()..] => {
                    // SAFETY: the host checks every pointer; that it does is what scripts try out. Those that are given
                    // by `Out` and by slices are good.
                    unsafe { $name($({ let $arg = args.next().unwrap_or(0); $arg as $type }),*) }
                })+
                _ => return None,
            })
        }
    };
}

imports! {
    proxy_log(level: u32, text: u32, size: u32);
    proxy_get_log_level(level: u32);
    proxy_get_current_time_nanoseconds(time: u32);
    proxy_set_tick_period_milliseconds(period: u32);
    proxy_get_buffer_bytes(buffer: u32, start: u32, max: u32, data: u32, size: u32);
    proxy_get_buffer_status(buffer: u32, length: u32, flags: u32);
    proxy_set_buffer_bytes(buffer: u32, start: u32, length: u32, data: u32, size: u32);
    proxy_get_header_map_size(map: u32, size: u32);
    proxy_get_header_map_pairs(map: u32, data: u32, size: u32);
    proxy_set_header_map_pairs(map: u32, data: u32, size: u32);
    proxy_get_header_map_value(map: u32, name: u32, name_size: u32, data: u32, size: u32);
    proxy_add_header_map_value(map: u32, name: u32, name_size: u32, value: u32, value_size: u32);
    proxy_replace_header_map_value(map: u32, name: u32, name_size: u32, value: u32, value_size: u32);
    proxy_remove_header_map_value(map: u32, name: u32, name_size: u32);
    proxy_continue_stream(stream: u32);
    proxy_close_stream(stream: u32);
    proxy_send_local_response(status: u32, details: u32, details_size: u32, body: u32, body_size: u32, headers: u32, headers_size: u32, grpc: u32);
    proxy_http_call(upstream: u32, upstream_size: u32, headers: u32, headers_size: u32, body: u32, body_size: u32, trailers: u32, trailers_size: u32, timeout: u32, id: u32);
    proxy_grpc_call(upstream: u32, upstream_size: u32, service: u32, service_size: u32, method: u32, method_size: u32, metadata: u32, metadata_size: u32, message: u32, message_size: u32, timeout: u32, id: u32);
    proxy_grpc_stream(upstream: u32, upstream_size: u32, service: u32, service_size: u32, method: u32, method_size: u32, metadata: u32, metadata_size: u32, id: u32);
    proxy_grpc_send(id: u32, message: u32, size: u32, end: u32);
    proxy_grpc_cancel(id: u32);
    proxy_grpc_close(id: u32);
    proxy_get_status(code: u32, data: u32, size: u32);
    proxy_set_shared_data(key: u32, key_size: u32, value: u32, value_size: u32, cas: u32);
    proxy_get_shared_data(key: u32, key_size: u32, data: u32, size: u32, cas: u32);
    proxy_register_shared_queue(name: u32, name_size: u32, id: u32);
    proxy_resolve_shared_queue(vm: u32, vm_size: u32, name: u32, name_size: u32, id: u32);
    proxy_enqueue_shared_queue(id: u32, item: u32, size: u32);
    proxy_dequeue_shared_queue(id: u32, data: u32, size: u32);
    proxy_define_metric(kind: u32, name: u32, name_size: u32, id: u32);
    proxy_increment_metric(id: u32, delta: u64);
    proxy_record_metric(id: u32, value: u64);
    proxy_get_metric(id: u32, value: u32);
    proxy_get_property(path: u32, path_size: u32, data: u32, size: u32);
    proxy_set_property(path: u32, path_size: u32, value: u32, value_size: u32);
    proxy_call_foreign_function(name: u32, name_size: u32, argument: u32, argument_size: u32, data: u32, size: u32);
    proxy_set_effective_context(context: u32);
    proxy_done();
}

/// What a host call gives back by pointers.
#[derive(Default)]
pub struct Out {
    data: u32,
    size: u32,
    /// A number.
    pub number: u64,
}

impl Out {
    /// The bytes that the host put into a block of our allocator.
    pub fn bytes(&self) -> Vec<u8> {
        if self.data == 0 {
            return Vec::new();
        }
        // SAFETY: the host allocated exactly this much with `proxy_on_memory_allocate`, and has given it away.
        unsafe { Vec::from_raw_parts(self.data as *mut u8, self.size as usize, self.size as usize) }
    }
}

/// The arguments of a host call; it keeps what they point to.
pub struct Arguments(Vec<u64>, Vec<Box<[u8]>>);

impl Arguments {
    pub fn new() -> Arguments {
        Arguments(Vec::new(), Vec::new())
    }

    pub fn number(mut self, number: u64) -> Arguments {
        self.0.push(number);
        self
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Arguments {
        let kept: Box<[u8]> = bytes.into();
        let pointer = if bytes.is_empty() { 0 } else { kept.as_ptr() as usize as u64 };
        self.0.extend([pointer, bytes.len() as u64]);
        self.1.push(kept);
        self
    }

    pub fn data(mut self, out: &mut Out) -> Arguments {
        self.0.extend([&raw mut out.data as usize as u64, &raw mut out.size as usize as u64]);
        self
    }

    pub fn out(mut self, out: &mut Out) -> Arguments {
        self.0.push(&raw mut out.number as usize as u64);
        self
    }

    pub fn call(&self, name: &str) -> u32 {
        call(name, &self.0).expect("an import")
    }
}

/// The allocator of the host.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    Vec::leak(vec![0; size]).as_mut_ptr()
}

/// Marks the version; it is never called.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_abi_version_0_2_1() {}
