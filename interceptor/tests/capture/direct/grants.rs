//! Grants: which hold, which do not, and how they are shared out.

use interceptor::capture::{Counter, GrantError};

use super::{A, APP, APP6, B, Cell, VIP};
use crate::support::{Netns, Node, accept, close, given_to_the_agent, may_run, workload};

#[tokio::test]
async fn one_write_voids_every_earlier_grant() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    let old = cell.grant(APP, &[Some(APP)]);
    let next = cell.direct.advance();
    assert_eq!(next, old.generation + 1);
    cell.is_the_agents(APP).await;
    // Published late, by somebody who evaluated the old mesh.
    cell.direct.publish(&old).unwrap();
    cell.is_the_agents(APP).await;
    assert_eq!(cell.count(Counter::DirectOutdated), 2);
    assert_eq!(cell.count(Counter::Direct), 0);

    cell.allow();
    close(cell.pair(APP));
    cell.ended().await;
    cell.direct
        .withdraw(cell.source.key, APP.parse().unwrap())
        .unwrap();
    cell.is_the_agents(APP).await;
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn an_address_that_changed_hands_is_not_connected_to() {
    const MOVING: &str = "10.79.0.9";
    const TO: &str = "10.79.0.9:9000";
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    // The mesh gives the address to one workload, takes it away, and gives it to another.
    cell.workloads.1.addresses.push(MOVING.parse().unwrap());
    cell.capture.update(&cell.workloads.1).unwrap();
    let grant = cell.grant(TO, &[Some(TO)]);
    cell.direct.publish(&grant).unwrap();
    cell.workloads.1.addresses.pop();
    cell.capture.update(&cell.workloads.1).unwrap();
    cell.is_the_agents(TO).await;
    let heir = Netns::new("heir");
    let _enrolled = cell.capture.enrol(&workload(&heir, &[MOVING])).unwrap();
    cell.is_the_agents(TO).await;
    assert_eq!(cell.count(Counter::DirectOutdated), 2);
    assert_eq!(cell.count(Counter::Direct), 0);
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn whoever_leaves_takes_the_grants_along() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    cell.allow();
    cell.allow_at(VIP);
    assert_eq!(cell.direct.grants(), 3);
    cell.capture.unenrol(&cell.workloads.1.id).unwrap();
    assert_eq!(cell.direct.grants(), 0);
    cell.is_the_agents(APP).await;
    let unknown = cell.direct.publish(&cell.grant(APP, &[Some(APP)]));
    assert!(matches!(unknown, Err(GrantError::Target(_))));

    cell.leaves_nothing().await;

    let mut cell = Cell::new();
    cell.allow();
    assert_eq!(cell.direct.grants(), 2);
    cell.capture.unenrol(&cell.workloads.0.id).unwrap();
    assert_eq!(cell.direct.grants(), 0);
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn a_grant_that_makes_no_sense_is_refused() {
    if !may_run() {
        return;
    }
    let cell = Cell::new();
    let publish = |address: &str, targets: &[Option<&str>]| {
        let refused = cell.direct.publish(&cell.grant(address, targets));
        refused.unwrap_err().reason()
    };
    assert_eq!(publish(APP, &[]), "targets");
    assert_eq!(publish(APP, &[Some(APP); 17]), "targets");
    assert_eq!(publish(VIP, &[Some("10.79.0.77:9000")]), "target");
    assert_eq!(publish(VIP, &[Some("10.79.0.2:0")]), "target");
    assert_eq!(publish(VIP, &[Some(APP6)]), "target", "another family");
    assert_eq!(cell.direct.grants(), 0);
}

#[tokio::test]
async fn a_share_without_an_endpoint_is_the_agents_and_says_so() {
    const CONNECTIONS: u64 = 400;
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    let grant = cell.grant(VIP, &[Some(APP), None]);
    cell.direct.publish(&grant).unwrap();
    for _ in 0..CONNECTIONS {
        let before = given_to_the_agent(&cell.capture);
        let client = cell.a.dial(VIP).unwrap();
        if given_to_the_agent(&cell.capture) > before {
            let (stream, _) = accept(&cell.source.listeners.outbound).await;
            assert!(cell.source.origin.is_rest_of_grant(&stream).unwrap());
            assert_eq!(
                cell.source.origin.outbound(&stream).unwrap(),
                VIP.parse().unwrap()
            );
            close((client, stream));
        } else {
            let (server, _) = cell.app.accept().unwrap();
            close((client, server));
            cell.ended().await;
        }
    }
    let (direct, elsewhere) = (
        cell.count(Counter::Direct),
        cell.count(Counter::DirectElsewhere),
    );
    assert_eq!(direct + elsewhere, CONNECTIONS);
    // Eight standard deviations.
    assert!((120..=280).contains(&direct), "{direct}");
    // Without a grant it is everybody's.
    let client = cell.a.dial("10.96.0.81:80").unwrap();
    let (stream, _) = accept(&cell.source.listeners.outbound).await;
    assert!(!cell.source.origin.is_rest_of_grant(&stream).unwrap());
    close((client, stream));
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn sixteen_endpoints_all_get_their_share() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    let ports = 9_001..9_017_u16;
    let at: Vec<_> = ports.map(|port| format!("{B}:{port}")).collect();
    let listeners: Vec<_> = at.iter().map(|it| cell.b.listen(it)).collect();
    let targets: Vec<_> = at.iter().map(|it| Some(&**it)).collect();
    cell.direct.publish(&cell.grant(VIP, &targets)).unwrap();
    let mut got = [0; 16];
    for _ in 0..480 {
        let client = cell.a.dial(VIP).unwrap();
        let port = cell.opened().await.destination_address.port();
        let index = usize::from(port - 9_001);
        let (server, _) = listeners[index].accept().unwrap();
        got[index] += 1;
        close((client, server));
        cell.ended().await;
    }
    // Thirty each on average; none and seventy are both beyond five standard deviations.
    assert!(got.iter().all(|it| (1..70).contains(it)), "{got:?}");
    cell.leaves_nothing().await;
}

#[tokio::test]
async fn a_full_map_refuses_a_grant_and_gives_none_up() {
    if !may_run() {
        return;
    }
    let mut node = Node::new();
    node.config.sizes.grants = 16;
    let mut cell = Cell::with(node);
    cell.allow();
    let publish = |cell: &Cell, number: u8| {
        let address = format!("10.96.1.{number}:80");
        cell.direct.publish(&cell.grant(&address, &[Some(APP)]))
    };
    for number in 2..16_u64 {
        // None of these workloads has more than its share.
        let mut grant = cell.grant(&format!("10.96.1.{number}:80"), &[Some(APP)]);
        grant.source = 1_000 + number / 4;
        cell.direct.publish(&grant).unwrap();
    }
    assert!(matches!(publish(&cell, 16), Err(GrantError::Full)));
    cell.is_the_agents("10.96.1.16:80").await;
    // The first of them still holds, and can be replaced.
    cell.allow();
    close(cell.pair(APP));
    cell.ended().await;
    // What holds no more makes room.
    cell.direct.advance();
    publish(&cell, 16).unwrap();
    assert_eq!(cell.direct.grants(), 1);
    close(cell.pair("10.96.1.16:80"));
    cell.ended().await;
    cell.leaves_nothing().await;
}

/// One workload that connects to everything there is costs others nothing, and itself nothing that it
/// has.
#[tokio::test]
async fn a_workload_that_has_its_share_gets_no_more_and_keeps_what_it_has() {
    if !may_run() {
        return;
    }
    let mut node = Node::new();
    node.config.sizes.grants = 16;
    let mut cell = Cell::with(node);
    let mut others = cell.grant("10.96.2.1:80", &[Some(APP)]);
    others.source = 1_000;
    cell.direct.publish(&others).unwrap();
    let address = |number: u64| format!("10.96.1.{number}:80");
    let publish = |cell: &Cell, number: u64| {
        let grant = cell.grant(&address(number), &[Some(APP)]);
        cell.direct.publish(&grant)
    };
    for number in 1..=40 {
        let published = publish(&cell, number);
        if number <= 4 {
            published.unwrap();
        } else {
            assert_eq!(published.unwrap_err().reason(), "share");
        }
    }
    assert_eq!(cell.direct.grants(), 1 + 4);
    for number in 1..=4 {
        close(cell.pair(&address(number)));
        cell.ended().await;
        // Publishing it again needs no more room.
        publish(&cell, number).unwrap();
    }
    for number in [5, 40] {
        cell.is_the_agents(&address(number)).await;
    }
    // What holds no more is no part of its share.
    cell.direct.advance();
    publish(&cell, 40).unwrap();
    close(cell.pair(&address(40)));
    cell.ended().await;
    cell.direct.withdraw(1_000, others.address).unwrap();
}

#[tokio::test]
async fn a_service_may_lead_back_to_the_workload_itself() {
    if !may_run() {
        return;
    }
    let mut cell = Cell::new();
    let own = cell.a.listen("10.78.0.2:9000");
    let grant = cell.grant(VIP, &[Some("10.78.0.2:9000")]);
    cell.direct.publish(&grant).unwrap();
    let client = cell.a.dial(VIP).unwrap();
    let (server, from) = own.accept().unwrap();
    assert_eq!(from.ip().to_string(), A);
    assert_eq!(cell.opened().await.destination, cell.source.key);
    close((client, server));
    cell.ended().await;
    // Without a grant it talks to itself as ever, and nobody is told.
    let client = cell.a.dial("10.78.0.2:9000").unwrap();
    close((client, own.accept().unwrap()));
    assert_eq!(cell.count(Counter::OwnAddress), 1);
    cell.leaves_nothing().await;
}
