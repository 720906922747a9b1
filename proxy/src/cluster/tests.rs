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
    let source = Source::File("/delta.yaml".into());
    let transport = Transport::Mesh(link, Vec::new(), ServiceProtocol::Http);
    let dialer = before.map_or_else(dialer, |before| Rc::clone(&before.dialer));
    let settings = Settings::plain(Balance::Random, timeouts);
    Cluster::new("delta", transport, Some(&source), place, settings, before, &dialer)
}

fn endpoint(cluster: &Cluster, index: usize) -> Rc<Endpoint> {
    Rc::clone(&cluster.endpoints.borrow()[index])
}

#[test]
fn what_has_not_changed_goes_on() {
    let first = cluster(LinkPolicy::H2, place(&[(1, 1), (2, 1)]), TIMEOUTS, None);
    let same = cluster(LinkPolicy::H2, place(&[(1, 1), (2, 1)]), TIMEOUTS, Some(&first));
    assert!(Rc::ptr_eq(&first, &same));

    let slower = Timeouts { request: 2 * SECOND, ..TIMEOUTS };
    let second = cluster(LinkPolicy::H2, place(&[(3, 1), (2, 5)]), slower, Some(&first));
    assert_eq!(second.timeouts(), slower);
    assert!(Rc::ptr_eq(&endpoint(&first, 1), &endpoint(&second, 1)), "its links");
    assert_eq!(endpoint(&second, 1).weight.get(), 1, "not in use yet");
    second.take_over();
    assert_eq!(endpoint(&second, 1).weight.get(), 5);

    let other = cluster(LinkPolicy::H3, place(&[(2, 5)]), slower, Some(&second));
    assert!(!Rc::ptr_eq(&endpoint(&second, 1), &endpoint(&other, 0)), "reached in another way");
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
    cluster.move_to(&Place { endpoints: Vec::new(), unknown: Some("no answer yet".into()) });
    let fault = pick();
    assert_eq!(fault.to_string(), "dns_error: delta has no endpoint: no answer yet");
    assert_eq!(fault.retry, Retry::Safe);
}
