use super::*;

fn fields(lines: &[(&'static str, &'static str)]) -> Fields {
    let line =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    lines.iter().map(line).collect()
}

fn text(fields: &Fields) -> String {
    let lines = fields.iter().map(|(name, value)| format!("{name}={}", value.to_str().expect("text")));
    lines.collect::<Vec<_>>().join(" ")
}

fn value(text: &'static str) -> HeaderValue {
    HeaderValue::from_static(text)
}

#[test]
fn lines_keep_their_order_and_names_their_values() {
    let all = fields(&[("a", "1"), ("host", "h"), ("a", "2"), ("te", "t"), ("a", "3")]);
    assert_eq!(text(&all), "a=1 host=h a=2 te=t a=3");
    assert_eq!(all.get(&http::header::TE), all.get("te"));
    assert_eq!((&all["a"], &all["te"]), (&value("1"), &value("t")));
    assert_eq!(all.get_all("a").collect::<Vec<_>>(), ["1", "2", "3"]);
    assert_eq!(all.names().collect::<Vec<_>>(), ["a", "host", "te"]);
    assert!(all.contains_key("te") && !all.contains_key("b") && all.get("b").is_none());
    assert_eq!(all, all.clone());
    assert_ne!(all, fields(&[("host", "h"), ("a", "1"), ("a", "2"), ("te", "t"), ("a", "3")]));
}

#[test]
fn a_name_is_set_in_its_place_and_removed_with_all_its_lines() {
    let a = HeaderName::from_static("a");
    let mut all = fields(&[("b", "0"), ("a", "1"), ("c", "2"), ("a", "3"), ("d", "4"), ("a", "5")]);
    all.insert(&a, value("9"));
    assert_eq!(text(&all), "b=0 a=9 c=2 d=4");
    all.insert(&a, value("8"));
    all.append(a.clone(), value("7"));
    all.insert(http::header::TE, value("t"));
    assert_eq!(text(&all), "b=0 a=8 c=2 d=4 a=7 te=t");
    assert_eq!((all.remove(&a), all.remove(&a)), (true, false));
    assert_eq!(text(&all), "b=0 c=2 d=4 te=t");
    all.clear();
    assert!(all.is_empty());
}

#[test]
fn only_one_line_of_the_same_value_is_as_if_it_were_set() {
    let mut all = fields(&[("b", "0"), ("a", "1"), ("c", "2"), ("a", "1")]);
    let place = |all: &Fields, name| all.place(name).expect("a place");
    assert!(all.place("d").is_none());
    assert!(all.is_only(place(&all, "c"), b"2") && !all.is_only(place(&all, "c"), b"1"));
    assert!(!all.is_only(place(&all, "a"), b"1"), "there are two");
    all.set(place(&all, "a"), value("1"));
    assert!(all.is_only(place(&all, "a"), b"1"));
    all.set(place(&all, "c"), value("3"));
    assert_eq!(text(&all), "b=0 a=1 c=3");
}

#[test]
fn what_was_read_stays_where_it_is() {
    let block = Bytes::from_static(b"a: one\r\nb: \r\nc: caf\xe9\r\n");
    let mut all = Fields::unread();
    for (name, place) in [("a", 3..6), ("b", 11..11), ("c", 16..20)] {
        all.append_at(HeaderName::from_static(name), place);
    }
    all.keep(block.clone());
    all.append(HeaderName::from_static("d"), value("4"));
    let get = |name| all.get(name).expect("a value");
    assert_eq!((get("a").to_str().unwrap(), get("b").len(), get("d").to_str().unwrap()), ("one", 0, "4"));
    assert_eq!((get("c").as_bytes(), get("c").to_str().is_err()), (&b"caf\xe9"[..], true));
    assert_eq!(all.clone(), all);
    for (name, value) in &all {
        assert_eq!(value, value.share(), "{name}");
    }
    assert!(std::ptr::eq(get("a").share().as_bytes(), &block[3..6]), "a share of the block");
    all.insert(HeaderName::from_static("a"), value("two"));
    assert!(all.remove("b"));
    assert_eq!(
        text(&all.iter().filter(|(name, _)| *name != "c").map(|(n, v)| (n.clone(), v.share())).collect()),
        "a=two d=4"
    );
}

#[test]
fn few_bytes_are_in_their_line() {
    assert_eq!(std::mem::size_of::<Part>(), std::mem::size_of::<HeaderValue>());
    for length in [0, 1, FEW - 1, FEW, FEW + 1, 100] {
        for byte in 0..=u8::MAX {
            let mut bytes = vec![b'a'; length];
            if let Some(last) = bytes.last_mut() {
                *last = byte;
            }
            let own = HeaderValue::from_bytes(&bytes).ok();
            let made = Written::of(&bytes);
            assert_eq!(made.is_some(), own.is_some(), "{bytes:?}");
            let (Some(made), Some(own)) = (made, own) else { continue };
            assert_eq!(matches!(made.0, Part::Few(..)), length <= FEW);
            let mut all = fields(&[("b", "0"), ("a", "1"), ("a", "2")]);
            all.append(HeaderName::from_static("c"), made);
            let value = all.get("c").expect("a value");
            assert_eq!((value.as_bytes(), value.len(), value.share()), (&bytes[..], length, own));
            assert!(!value.is_sensitive());
            all.set(all.place("a").expect("a place"), Written::of(&bytes).expect("a value"));
            assert_eq!(all.clone(), all);
            assert_eq!((all.len(), all.get("a"), all.get("b").map(Value::len)), (3, all.get("c"), Some(1)));
        }
    }
}

/// Not more than a worker may keep, not more lines than one may have, and nothing of what they were.
#[test]
fn blocks_are_used_again() {
    let some = fields(&[("a", "1")]);
    let block = some.lines.as_ptr();
    drop(some);
    let other = Fields::of(Bytes::new(), ROOM);
    assert_eq!((other.lines.as_ptr(), other.len()), (block, 0));
    let more: Vec<_> = (0..2 * BLOCKS).map(|_| other.clone()).collect();
    assert!(more.iter().all(|fields| fields.lines.capacity() == 0), "nothing takes no room");
    let more: Vec<_> = (0..2 * BLOCKS).map(|_| fields(&[("a", "1")])).collect();
    drop(more);
    let kept = || FREE.with_borrow(|free| (free.len(), free.iter().all(|block| block.capacity() <= LARGEST)));
    assert_eq!(kept(), (BLOCKS, true));
    let one = Fields::of(Bytes::new(), LARGEST + 1);
    assert_eq!(kept(), (BLOCKS - 1, true));
    drop(one);
    assert_eq!(kept(), (BLOCKS - 1, true), "too large to be kept");
}
