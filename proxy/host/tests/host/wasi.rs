//! WASI functions: output to the log, environment, inert files, exit.

use lacis_host::abi::Level;
use lacis_host::testing::TestWorld;
use lacis_host::{Cause, StartError};

use crate::guest::Guest;

/// A table of one vector at 1024 for the text that stands in the first string (at 4096).
fn write(fd: u32, text: &str) -> String {
    let length = text.replace("\\n", "\n").len();
    format!("put(1024, 4096); put(1028, {length}); drop(at(4096)); num(fd_write({fd}, 1024, 1, 16));")
}

/// Keeps the text as the first string of the guest.
fn first_string(text: &str) -> String {
    format!("drop(proxy_log(0, \"{text}\"));")
}

#[test]
fn output_is_logged_by_line() {
    let code = first_string("one\\ntwo\\n") + &write(1, "one\\ntwo\\n") + "num(at(16));" + &write(2, "one\\n");
    let mut run = Guest::request(&code).start();
    run.on_request().unwrap();
    let world = run.world.borrow();
    let lines: Vec<_> = world.lines.iter().map(|(_, level, text)| (*level, text.as_str())).collect();
    let (info, error) = (Level::Info, Level::Error);
    assert_eq!(lines, [(info, "one\ntwo"), (info, "0"), (info, "8"), (error, "one"), (info, "0")]);
}

#[test]
fn pieces_wait_for_the_end_of_their_line() {
    let code = first_string("ab\\n")
        + "put(1024, 4096); put(1028, 1); put(1032, 4097); put(1036, 1);
           num(fd_write(2, 1024, 2, 16)); put(1024, 4098); num(fd_pwrite(2, 1024, 1, 0L, 16)); num(fd_write(1, 0, 0, 16));";
    assert_eq!(Guest::request(&code).lines(), ["0", "ab", "0", "0"]);
}

#[test]
fn output_without_an_end_is_logged_at_its_limit_and_at_death() {
    let code = "put(1024, 65536); put(1028, 16384); drop(fd_write(1, 1024, 1, 16));";
    assert_eq!(Guest::request(code).lines()[0].len(), lacis_host::limits::LOG_LINE);
    let mut run = Guest::request(&(first_string("last words") + &write(2, "last words") + "trap();")).start();
    assert!(run.on_request().is_err());
    assert_eq!(run.lines(), ["0", "last words"]);
}

#[test]
fn what_a_panic_says_comes_last() {
    let said = "\\nthread 'main' (1) panicked at src/lib.rs:3:5:\\non purpose\\n";
    let note = "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\\n";
    let length = |text: &str| text.replace("\\n", "\n").len();
    let (first, second) = (length(said), length(note));
    let code = first_string(&[said, note].concat())
        + &write(2, said)
        + &format!("put(1024, {}); put(1028, {second}); num(fd_write(2, 1024, 1, 16)); num(at(16));", 4096 + first);
    let lines = Guest::request(&code).lines();
    assert_eq!(lines, ["thread 'main' (1) panicked at src/lib.rs:3:5:\non purpose", "0", "0", &second.to_string()]);
}

#[test]
fn only_standard_output_can_be_written() {
    for (call, errno) in [
        ("fd_write(0, 1024, 0, 16)", 8),
        ("fd_write(3, 1024, 0, 16)", 8),
        ("fd_write(1, -8, 1, 16)", 21),
        ("fd_write(1, 1024, 0, -2)", 21),
        ("fd_write(1, 0, 1025, 16)", 28),
        ("fd_write(1, 0, -1, 16)", 28),
    ] {
        assert_eq!(Guest::request(&format!("num({call});")).lines(), [errno.to_string()], "{call}");
    }
    // A vector that points outside.
    assert_eq!(Guest::request("put(1024, -4); put(1028, 8); num(fd_write(1, 1024, 1, 16));").lines(), ["21"]);
}

#[test]
fn the_environment_is_what_was_set() {
    let mut guest = Guest::request(
        "num(environ_sizes_get(16, 20)); num(at(16)); num(at(20)); num(environ_get(1024, 2048));
         drop(proxy_log(2, at(1024), 4)); drop(proxy_log(2, at(1028), 3)); num(at(2052));
         num(environ_get(1024, -2)); num(environ_get(-2, 1024)); num(environ_sizes_get(-2, 16));
         num(args_sizes_get(16, 20)); num(at(16)); num(at(20)); num(args_get(0, 0));",
    );
    guest.settings.env = vec![("A".into(), "bc".into()), ("D".into(), String::new())];
    let lines = guest.lines();
    // "D=" and its NUL end at 2056; the word at 2052 is NUL, 'D', '=', NUL.
    let word = u32::from_le_bytes(*b"\0D=\0").to_string();
    assert_eq!(lines[..4], ["0", "2", "8", "0"]);
    assert_eq!(lines[4], "A=bc");
    assert_eq!(lines[5], "D=\0");
    assert_eq!(lines[6], word);
    assert_eq!(lines[7..], ["21", "21", "21", "0", "0", "0", "0"]);
}

#[test]
fn random_bytes_are_bounded() {
    let lines = Guest::request(
        "num(random_get(1024, 64)); num(random_get(65536, 65536)); num(random_get(0, 65537)); num(random_get(-4, 8));
         num(at(1024)); num(at(1028));",
    )
    .lines();
    assert_eq!(lines[..4], ["0", "0", "28", "21"]);
    assert_ne!(lines[4..], ["0", "0"], "64 random bytes begin with 8 zeros");
}

#[test]
fn files_and_sockets_are_not_there() {
    for (call, errno) in [
        ("fd_read(0, 0, 0, 16)", 52),
        ("fd_pread(0, 0, 0, 0L, 16)", 52),
        ("fd_close(2)", 0),
        ("fd_close(3)", 8),
        ("fd_seek(1, 0L, 0, 16)", 0),
        ("fd_seek(3, 0L, 0, 16)", 8),
        ("fd_tell(1, 16)", 0),
        ("fd_tell(0, 16)", 8),
        ("fd_fdstat_get(1, 1024)", 0),
        ("fd_fdstat_get(0, 1024)", 8),
        ("fd_fdstat_get(1, -4)", 21),
        ("fd_fdstat_set_flags(1, 0)", 52),
        ("fd_fdstat_set_rights(1, 0L, 0L)", 0),
        ("fd_fdstat_set_rights(3, 0L, 0L)", 8),
        ("fd_filestat_set_size(1, 0L)", 0),
        ("fd_filestat_set_times(9, 0L, 0L, 0)", 8),
        ("fd_allocate(2, 0L, 0L)", 0),
        ("fd_datasync(2)", 0),
        ("fd_sync(3)", 8),
        ("fd_advise(9, 0L, 0L, 0)", 0),
        ("fd_filestat_get(1, 16)", 8),
        ("fd_prestat_get(3, 16)", 8),
        ("fd_prestat_dir_name(3, 16, 4)", 52),
        ("fd_readdir(3, 16, 4, 0L, 20)", 54),
        ("fd_renumber(1, 2)", 58),
        ("fd_renumber(3, 2)", 8),
        ("path_open(3, 0, \"f\", 0, 0L, 0L, 0, 16)", 44),
        ("path_filestat_get(3, 0, \"f\", 16)", 58),
        ("path_filestat_set_times(3, 0, \"f\", 0L, 0L, 0)", 58),
        ("path_create_directory(3, \"f\")", 58),
        ("path_remove_directory(3, \"f\")", 58),
        ("path_unlink_file(3, \"f\")", 58),
        ("path_link(3, 0, \"f\", 3, \"g\")", 58),
        ("path_rename(3, \"f\", 3, \"g\")", 58),
        ("path_symlink(\"f\", 3, \"g\")", 58),
        ("path_readlink(3, \"f\", 16, 4, 20)", 58),
        ("sock_accept(3, 0, 16)", 58),
        ("sock_recv(3, 0, 0, 0, 16, 20)", 58),
        ("sock_send(3, 0, 0, 0, 16)", 58),
        ("sock_shutdown(3, 0)", 58),
        ("proc_raise(9)", 58),
        ("sched_yield()", 0),
        ("poll_oneoff(0, 0, 1, 16)", 0),
    ] {
        assert_eq!(Guest::request(&format!("num({call});")).lines(), [errno.to_string()], "{call}");
    }
}

#[test]
fn exit_ends_a_vm_but_not_its_start_with_0() {
    let mut run = Guest::request("proc_exit(0);").start();
    assert_eq!(run.on_request().unwrap_err().cause, Cause::Exit(0));
    assert!(run.vm.is_dead());

    let start = |code: &str| Guest::new().on("_start", code).vm(&TestWorld::shared());
    assert!(start("proc_exit(0);").is_ok());
    match start("proc_exit(3);") {
        Err(StartError::Trap(trap)) => assert_eq!((trap.callback, trap.cause), ("_start", Cause::Exit(3))),
        other => panic!("{other:?}"),
    }
}
