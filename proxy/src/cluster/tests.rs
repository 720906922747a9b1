use super::*;
use crate::drain::Drain;
use crate::telemetry::metrics::Registry;

fn dialer() -> Rc<Dialer> {
    let metrics = Rc::new(Registry::default().metrics());
    Rc::new(Dialer::new(Rc::new(RefCell::new(None)), metrics, Drain::default()))
}

fn place(endpoints: &[(u16, u32)]) -> Place {
    let endpoint = |&(port, weight): &(u16, u32)| config::Endpoint {
        weight,
        ..config::Endpoint::new(([127, 0, 0, 1], port).into())
    };
    Place { endpoints: endpoints.iter().map(endpoint).collect(), unknown: None }
}

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUTS: Timeouts = Timeouts { connect: SECOND, request: SECOND, idle: SECOND, stream: Duration::ZERO };

fn cluster(link: LinkPolicy, place: Place, timeouts: Timeouts, before: Option<&Rc<Cluster>>) -> Rc<Cluster> {
    let source = Arc::new(Source::File("/delta.yaml".into()));
    let transport = Transport::Mesh(link, Arc::default(), ServiceProtocol::Http);
    let dialer = before.map_or_else(dialer, |before| Rc::clone(&before.dialer));
    let settings = Settings::plain(Balance::Random, timeouts);
    Cluster::new("delta", transport, Some(&source), place, settings, before, &dialer)
}

fn endpoint(cluster: &Cluster, index: usize) -> Rc<Endpoint> {
    cluster.endpoint(&cluster.members.borrow(), index).expect("one of them")
}

#[test]
fn what_has_not_changed_goes_on() {
    let first = cluster(LinkPolicy::H2, place(&[(1, 1), (2, 1)]), TIMEOUTS, None);
    let same = cluster(LinkPolicy::H2, place(&[(1, 1), (2, 1)]), TIMEOUTS, Some(&first));
    assert!(Rc::ptr_eq(&first, &same));

    let slower = Timeouts { request: 2 * SECOND, ..TIMEOUTS };
    let used = endpoint(&first, 1);
    let second = cluster(LinkPolicy::H2, place(&[(3, 1), (2, 5)]), slower, Some(&first));
    assert_eq!(second.timeouts(), slower);
    assert!(Rc::ptr_eq(&used, &endpoint(&second, 1)), "its links");
    second.take_over();

    let other = cluster(LinkPolicy::H3, place(&[(2, 5)]), slower, Some(&second));
    assert!(!Rc::ptr_eq(&endpoint(&second, 1), &endpoint(&other, 0)), "reached in another way");
}

#[test]
fn what_came_into_use_meanwhile_is_taken_over() {
    let first = cluster(LinkPolicy::H2, place(&[(1, 1), (2, 1)]), TIMEOUTS, None);
    let second = cluster(LinkPolicy::H2, place(&[(2, 1), (3, 1)]), TIMEOUTS, Some(&first));
    let (used, gate) = (endpoint(&first, 1), Rc::clone(first.gate()));
    second.take_over();
    assert!(Rc::ptr_eq(&used, &endpoint(&second, 0)) && Rc::ptr_eq(&gate, second.gate()));
    assert!(second.before.borrow().is_none(), "the one before can go");

    let slower = Timeouts { request: 2 * SECOND, ..TIMEOUTS };
    let third = cluster(LinkPolicy::H2, place(&[(2, 1), (3, 1)]), slower, Some(&second));
    assert!(Rc::ptr_eq(&endpoint(&second, 1), &endpoint(&third, 1)), "one list, one of each");
}

#[test]
fn what_is_not_used_is_not_made() {
    let cluster = cluster(LinkPolicy::Auto, place(&[(1, 3), (2, 1)]), TIMEOUTS, None);
    cluster.checked(([127, 0, 0, 1], 2).into(), false);
    let shown = cluster.report().endpoints;
    assert_eq!(
        shown.iter().map(|e| (e.weight, e.healthy, e.used, e.choice.is_some())).collect::<Vec<_>>(),
        [(3, None, true, true), (1, Some(false), false, true)]
    );
    assert_eq!((cluster.members.borrow().used().count(), cluster.gate.get().is_some()), (0, false));
    let (_, picked) = cluster.pick(&[], &Trail::default()).expect("the one that is well");
    assert_eq!(picked.address.port(), 1);
    assert_eq!(cluster.members.borrow().used().count(), 1);
    assert!(endpoint(&cluster, 1).is_unhealthy(), "what was known before it was used");
}

#[test]
fn a_place_that_changes_keeps_what_stays() {
    let cluster = cluster(LinkPolicy::H2, place(&[(1, 1), (2, 1)]), TIMEOUTS, None);
    let (gone, stays) = (Rc::downgrade(&endpoint(&cluster, 0)), endpoint(&cluster, 1));
    cluster.move_to(&place(&[(2, 3), (4, 1)]));
    cluster.take_over();
    assert!(gone.upgrade().is_none(), "nothing holds what carries nothing");
    assert!(Rc::ptr_eq(&stays, &endpoint(&cluster, 0)));
    assert_eq!(
        cluster.report().endpoints.iter().map(|e| (e.address.port(), e.weight)).collect::<Vec<_>>(),
        [(2, 3), (4, 1)]
    );
}

#[test]
fn without_endpoints_the_fault_says_why() {
    let cluster = cluster(LinkPolicy::H2, place(&[]), TIMEOUTS, None);
    let pick = || cluster.pick(&[], &Trail::default()).expect_err("nowhere");
    assert_eq!(pick().reason, Reason::DestinationUnavailable);
    cluster.move_to(&Place { unknown: Some("no answer yet".into()), ..Place::default() });
    let fault = pick();
    assert_eq!(fault.to_string(), "dns_error: delta has no endpoint: no answer yet");
    assert_eq!(fault.retry, Retry::Safe);
}
