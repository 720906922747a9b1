//! The types of all imports, written down from proxy-wasm-cpp-host's `exports.h` and WASI preview 1, independently of the
//! host's own table.

pub(crate) const ENV: &str = "
emscripten_notify_memory_growth        (i32)
proxy_add_header_map_value             (i32 i32 i32 i32 i32) -> i32
proxy_call_foreign_function            (i32 i32 i32 i32 i32 i32) -> i32
proxy_clear_route_cache                () -> i32
proxy_close_stream                     (i32) -> i32
proxy_continue_request                 () -> i32
proxy_continue_response                () -> i32
proxy_continue_stream                  (i32) -> i32
proxy_define_metric                    (i32 i32 i32 i32) -> i32
proxy_dequeue_shared_queue             (i32 i32 i32) -> i32
proxy_done                             () -> i32
proxy_enqueue_shared_queue             (i32 i32 i32) -> i32
proxy_get_buffer_bytes                 (i32 i32 i32 i32 i32) -> i32
proxy_get_buffer_status                (i32 i32 i32) -> i32
proxy_get_configuration                (i32 i32) -> i32
proxy_get_current_time_nanoseconds     (i32) -> i32
proxy_get_header_map_pairs             (i32 i32 i32) -> i32
proxy_get_header_map_size              (i32 i32) -> i32
proxy_get_header_map_value             (i32 i32 i32 i32 i32) -> i32
proxy_get_log_level                    (i32) -> i32
proxy_get_metric                       (i32 i32) -> i32
proxy_get_property                     (i32 i32 i32 i32) -> i32
proxy_get_shared_data                  (i32 i32 i32 i32 i32) -> i32
proxy_get_status                       (i32 i32 i32) -> i32
proxy_grpc_call                        (i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) -> i32
proxy_grpc_cancel                      (i32) -> i32
proxy_grpc_close                       (i32) -> i32
proxy_grpc_send                        (i32 i32 i32 i32) -> i32
proxy_grpc_stream                      (i32 i32 i32 i32 i32 i32 i32 i32 i32) -> i32
proxy_http_call                        (i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) -> i32
proxy_increment_metric                 (i32 i64) -> i32
proxy_log                              (i32 i32 i32) -> i32
proxy_record_metric                    (i32 i64) -> i32
proxy_register_shared_queue            (i32 i32 i32) -> i32
proxy_remove_header_map_value          (i32 i32 i32) -> i32
proxy_replace_header_map_value         (i32 i32 i32 i32 i32) -> i32
proxy_resolve_shared_queue             (i32 i32 i32 i32 i32) -> i32
proxy_send_local_response              (i32 i32 i32 i32 i32 i32 i32 i32) -> i32
proxy_set_buffer_bytes                 (i32 i32 i32 i32 i32) -> i32
proxy_set_effective_context            (i32) -> i32
proxy_set_header_map_pairs             (i32 i32 i32) -> i32
proxy_set_property                     (i32 i32 i32 i32) -> i32
proxy_set_shared_data                  (i32 i32 i32 i32 i32) -> i32
proxy_set_tick_period_milliseconds     (i32) -> i32
pthread_equal                          (i32 i32) -> i32
";

/// Other types of the same imports that SDKs are known to ask for.
pub(crate) const VARIANTS: &str = "
proxy_continue_request                 ()
proxy_continue_response                ()
proxy_clear_route_cache                ()
proxy_grpc_call                        (i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) -> i32
proxy_grpc_stream                      (i32 i32 i32 i32 i32 i32 i32) -> i32
";

pub(crate) const WASI: &str = "
args_get                   (i32 i32) -> i32
args_sizes_get             (i32 i32) -> i32
clock_res_get              (i32 i32) -> i32
clock_time_get             (i32 i64 i32) -> i32
environ_get                (i32 i32) -> i32
environ_sizes_get          (i32 i32) -> i32
fd_advise                  (i32 i64 i64 i32) -> i32
fd_allocate                (i32 i64 i64) -> i32
fd_close                   (i32) -> i32
fd_datasync                (i32) -> i32
fd_fdstat_get              (i32 i32) -> i32
fd_fdstat_set_flags        (i32 i32) -> i32
fd_fdstat_set_rights       (i32 i64 i64) -> i32
fd_filestat_get            (i32 i32) -> i32
fd_filestat_set_size       (i32 i64) -> i32
fd_filestat_set_times      (i32 i64 i64 i32) -> i32
fd_pread                   (i32 i32 i32 i64 i32) -> i32
fd_prestat_dir_name        (i32 i32 i32) -> i32
fd_prestat_get             (i32 i32) -> i32
fd_pwrite                  (i32 i32 i32 i64 i32) -> i32
fd_read                    (i32 i32 i32 i32) -> i32
fd_readdir                 (i32 i32 i32 i64 i32) -> i32
fd_renumber                (i32 i32) -> i32
fd_seek                    (i32 i64 i32 i32) -> i32
fd_sync                    (i32) -> i32
fd_tell                    (i32 i32) -> i32
fd_write                   (i32 i32 i32 i32) -> i32
path_create_directory      (i32 i32 i32) -> i32
path_filestat_get          (i32 i32 i32 i32 i32) -> i32
path_filestat_set_times    (i32 i32 i32 i32 i64 i64 i32) -> i32
path_link                  (i32 i32 i32 i32 i32 i32 i32) -> i32
path_open                  (i32 i32 i32 i32 i32 i64 i64 i32 i32) -> i32
path_readlink              (i32 i32 i32 i32 i32 i32) -> i32
path_remove_directory      (i32 i32 i32) -> i32
path_rename                (i32 i32 i32 i32 i32 i32) -> i32
path_symlink               (i32 i32 i32 i32 i32) -> i32
path_unlink_file           (i32 i32 i32) -> i32
poll_oneoff                (i32 i32 i32 i32) -> i32
proc_exit                  (i32)
proc_raise                 (i32) -> i32
random_get                 (i32 i32) -> i32
sched_yield                () -> i32
sock_accept                (i32 i32 i32) -> i32
sock_recv                  (i32 i32 i32 i32 i32 i32) -> i32
sock_send                  (i32 i32 i32 i32 i32) -> i32
sock_shutdown              (i32 i32) -> i32
";

/// Types of the callbacks that the host calls.
pub(crate) const CALLBACKS: &str = "
_initialize                ()
_start                     ()
main                       (i32 i32) -> i32
proxy_on_context_create    (i32 i32)
proxy_on_vm_start          (i32 i32) -> i32
proxy_on_configure         (i32 i32) -> i32
proxy_validate_configuration (i32 i32) -> i32
proxy_on_tick              (i32)
proxy_on_queue_ready       (i32 i32)
proxy_on_new_connection    (i32) -> i32
proxy_on_downstream_data   (i32 i32 i32) -> i32
proxy_on_upstream_data     (i32 i32 i32) -> i32
proxy_on_downstream_connection_close (i32 i32)
proxy_on_upstream_connection_close (i32 i32)
proxy_on_request_headers   (i32 i32 i32) -> i32
proxy_on_response_headers  (i32 i32 i32) -> i32
proxy_on_request_body      (i32 i32 i32) -> i32
proxy_on_response_body     (i32 i32 i32) -> i32
proxy_on_request_trailers  (i32 i32) -> i32
proxy_on_response_trailers (i32 i32) -> i32
proxy_on_http_call_response (i32 i32 i32 i32 i32)
proxy_on_grpc_receive_initial_metadata (i32 i32 i32)
proxy_on_grpc_receive      (i32 i32 i32)
proxy_on_grpc_receive_trailing_metadata (i32 i32 i32)
proxy_on_grpc_close        (i32 i32 i32)
proxy_on_foreign_function  (i32 i32 i32)
proxy_on_done              (i32) -> i32
proxy_on_log               (i32)
proxy_on_delete            (i32)
";

/// Name, parameters and result of each line of a table, as WAT wants them.
pub(crate) fn rows(table: &str) -> impl Iterator<Item = (&str, String)> {
    table.lines().filter(|line| !line.is_empty()).map(|line| {
        let (name, ty) = line.split_once(' ').unwrap();
        let (parameters, result) = ty.trim().split_once(')').unwrap();
        let parameters = parameters.trim_start_matches('(');
        let result = if result.trim().is_empty() { "" } else { " (result i32)" };
        (name, format!("(param {parameters}){result}"))
    })
}
