//! Shared queues, and foreign functions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lacis_host::{Limit, Wake};

use crate::guest::{Guest, Run};

fn woken(guest: &mut Guest) -> Arc<AtomicU32> {
    let count = Arc::new(AtomicU32::new(0));
    let theirs = count.clone();
    guest.settings.wake = Wake(Arc::new(move || _ = theirs.fetch_add(1, Ordering::Relaxed)));
    count
}

#[test]
fn an_item_goes_from_one_vm_to_another() {
    let mut consumer = Guest::new()
        .on("proxy_on_configure", "num(proxy_register_shared_queue(\"q\", 16)); num(at(16));")
        .on("proxy_on_queue_ready", "num(p0); num(p1); num(proxy_dequeue_shared_queue(p1, 16, 20)); text(); num(proxy_dequeue_shared_queue(p1, 16, 20));");
    consumer.settings.vm_id = "consumer".into();
    let count = woken(&mut consumer);
    let mut producer = Guest::request(
        "num(proxy_resolve_shared_queue(\"consumer\", \"q\", 16)); num(proxy_enqueue_shared_queue(at(16), \"item\"));
         num(proxy_resolve_shared_queue(\"\", \"q\", 16)); num(at(16)); num(proxy_resolve_shared_queue(\"consumer\", \"r\", 16));",
    );
    producer.settings.shared = consumer.settings.shared.clone();
    let mut run = consumer.start();
    assert_eq!(run.lines(), ["0", "1"]);
    assert!(!run.vm.on_queue_ready().unwrap());
    assert!(run.lines().is_empty());
    // On another thread, as another worker.
    let lines = std::thread::spawn(move || producer.lines()).join().unwrap();
    assert_eq!(lines, ["0", "0", "1", "0", "1"]);
    assert_eq!(count.load(Ordering::Relaxed), 1);
    assert!(!run.vm.on_queue_ready().unwrap());
    assert_eq!(run.lines(), ["1", "1", "0", "item", "7"]);
}

#[test]
fn each_item_is_told_once_and_never_from_within_a_call() {
    let enqueue = "num(proxy_enqueue_shared_queue(1, \"i\"));";
    let mut guest = Guest::request(&format!("{enqueue} {enqueue} {enqueue}"))
        .on("proxy_on_configure", "num(proxy_register_shared_queue(\"q\", 16));")
        .on("proxy_on_queue_ready", "num(p1);");
    let count = woken(&mut guest);
    let mut run = guest.start();
    run.lines();
    run.on_request().unwrap();
    assert_eq!((run.lines().concat().as_str(), count.load(Ordering::Relaxed)), ("000", 3));
    let more: Vec<bool> = (0..4).map(|_| run.vm.on_queue_ready().unwrap()).collect();
    assert_eq!(more, [true, true, false, false]);
    assert_eq!(run.lines(), ["1"; 3]);
}

#[test]
fn an_empty_item_is_an_item() {
    let code = "num(proxy_register_shared_queue(\"q\", 16)); num(proxy_enqueue_shared_queue(at(16), 0, 0));
                num(proxy_dequeue_shared_queue(at(16), 24, 20)); num(at(20)); num(proxy_dequeue_shared_queue(at(16), 24, 20));
                num(proxy_dequeue_shared_queue(99, 24, 20)); num(proxy_enqueue_shared_queue(99, \"i\"));";
    assert_eq!(Guest::request(code).lines(), ["0", "0", "0", "0", "7", "1", "1"]);
}

#[test]
fn the_name_of_a_queue_is_bounded() {
    let most = lacis_host::limits::QUEUE_NAME;
    let more = most + 1;
    let code =
        format!("num(proxy_register_shared_queue(0, {most}, 16)); num(proxy_register_shared_queue(0, {more}, 16));");
    let mut run = Guest::request(&code).start();
    run.on_request().unwrap();
    assert_eq!(run.lines(), ["0", "10"]);
    assert_eq!(run.world.borrow().refused, [Limit::Queues]);
}

#[test]
fn a_queue_is_bounded_and_an_item_that_cannot_be_handed_over_stays() {
    let push = "num(proxy_enqueue_shared_queue(1, \"12\"));";
    let code = format!(
        "num(proxy_register_shared_queue(\"q\", 16)); num(proxy_register_shared_queue(\"r\", 16)); {push} {push} {push}
         num(proxy_dequeue_shared_queue(1, -1, 20)); num(proxy_dequeue_shared_queue(1, 16, 20)); text(); {push}"
    );
    let mut guest = Guest::request(&code);
    (guest.settings.limits.queues, guest.settings.limits.queue_items) = (1, 2);
    let mut run = guest.start();
    run.on_request().unwrap();
    assert_eq!(run.lines(), ["0", "10", "0", "0", "1", "6", "0", "12", "0"]);
    assert_eq!(run.world.borrow().refused, [Limit::Queues; 2]);
}

#[test]
fn a_plugin_that_has_gone_is_told_nothing() {
    let mut run = Guest::request("num(proxy_enqueue_shared_queue(1, \"i\"));")
        .on("proxy_on_configure", "num(proxy_register_shared_queue(\"q\", 16));")
        .on("proxy_on_queue_ready", "trap();")
        .start();
    run.on_request().unwrap();
    run.vm.close(run.id).unwrap();
    run.vm.stop_root(run.root).unwrap();
    assert!(!run.vm.on_queue_ready().unwrap());
}

fn foreign(call: &str) -> (Vec<String>, Run) {
    let code = format!("put(20, 0); num(proxy_call_foreign_function({call})); text();");
    let mut run = Guest::request(&code).on("proxy_on_tick", &code).start();
    run.on_request().unwrap();
    run.vm.tick(run.root).unwrap();
    (run.lines(), run)
}

#[test]
fn foreign_functions_are_the_embedder_s() {
    // The exchange is asked first, then the plugin; a tick has no exchange.
    assert_eq!(foreign("\"reverse\", \"abc\", 16, 20").0, ["0", "cba", "1", ""]);
    assert_eq!(foreign("\"echo\", \"abc\", 16, 20").0, ["0", "abc", "0", "abc"]);
    assert_eq!(foreign("\"echo\", \"abc\", 0, 0").0, ["0", "", "0", ""]);
    assert_eq!(foreign("\"none\", \"abc\", 16, 20").0, ["1", "", "1", ""]);
    assert_eq!(foreign("\"echo\", \"abc\", -1, 20").0[0], "6");
    for status in [2, 3, 10] {
        // The argument is the status: bytes that the test puts at 80.
        let code = format!("put(80, {status}); num(proxy_call_foreign_function(\"fail\", 80, 1, 16, 20));");
        assert_eq!(Guest::request(&code).lines(), [status.to_string()]);
    }
}

#[test]
fn a_foreign_event_has_arguments() {
    let mut run = Guest::new()
        .on("proxy_on_foreign_function", "num(p0); num(p1); num(p2); num(proxy_get_buffer_bytes(8, 0, 99, 16, 20)); text(); num(proxy_set_buffer_bytes(8, 0, 0, \"x\"));")
        .on("proxy_on_tick", "num(proxy_get_buffer_bytes(8, 0, 99, 16, 20));")
        .start();
    run.vm.on_foreign_function(run.root, 7, b"abc".to_vec()).unwrap();
    run.vm.tick(run.root).unwrap();
    assert_eq!(run.lines(), ["1", "7", "3", "0", "abc", "2", "0"]);
}
