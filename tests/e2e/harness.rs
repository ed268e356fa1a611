//! The harness itself, without agents: what the other tests rest on.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::path::Path;

use anyhow::Result;
use interceptor_tests::apps;
use interceptor_tests::world::Ground;

#[test]
fn pods_of_different_nodes_reach_each_other_by_their_own_addresses() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let server = ground.server.serve(8080, apps::who_am_i)?;

    for (to, from) in [
        (ground.server.at(8080), ground.caller.v4()),
        (ground.server.at6(8080), ground.caller.v6()),
    ] {
        let answer = ground.caller.ask(to, "who am I?")?;
        let (peer, local) = answer.split_once(' ').unwrap_or_default();
        assert_eq!(peer.parse::<std::net::SocketAddr>()?.ip(), from);
        assert_eq!(local.parse::<std::net::SocketAddr>()?, to);
    }
    assert_eq!(server.seen().len(), 2);
    Ok(())
}

#[test]
fn the_wire_sees_what_passes_between_nodes() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let _server = ground.server.serve(8080, apps::echo)?;
    let wire = ground.fabric.wire()?;

    assert_eq!(
        ground
            .caller
            .ask(ground.server.at(8080), "a marker in plaintext")?,
        "a marker in plaintext"
    );
    interceptor_tests::wait::so("the wire to carry it", || {
        wire.carried(b"a marker in plaintext")
    })?;
    assert!(wire.assert_protected(b"a marker in plaintext").is_err());
    Ok(())
}

#[test]
fn an_unplugged_node_is_unreachable_until_it_is_plugged_in() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let _server = ground.server.serve(8080, apps::echo)?;
    let mut stream = ground.caller.connect(ground.server.at(8080))?;
    ground.b.unplug()?;
    stream.set_read_timeout(Some(std::time::Duration::from_millis(200)))?;
    stream.write_all(b"x")?;
    assert_eq!(
        stream.read(&mut [0]).map_err(|error| error.kind()),
        Err(ErrorKind::WouldBlock)
    );
    ground.b.plug()?;
    stream.set_read_timeout(Some(interceptor_tests::wait::PATIENCE))?;
    assert_eq!(stream.read(&mut [0])?, 1);
    stream.shutdown(Shutdown::Both)?;
    Ok(())
}

#[test]
fn applications_reset_half_close_and_speak_first_as_told() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let _reset = ground.server.serve(1001, apps::reset)?;
    let _half = ground.server.serve(1002, apps::half_close)?;
    let first = ground.server.serve(1003, apps::speak_first)?;

    let error = ground
        .caller
        .call(ground.server.at(1001), "x")
        .expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(
        ground.caller.ask(ground.server.at(1002), "hello")?,
        "5 bytes: hello"
    );

    let mut stream = ground.caller.connect(ground.server.at(1003))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    stream.write_all(b"all done")?;
    stream.shutdown(Shutdown::Write)?;
    assert_eq!(said, "bye");
    first.outcome()??;
    Ok(())
}

#[test]
fn a_fabric_leaves_nothing() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let namespace = ground.caller.namespace().path();
    let folder = ground.fabric.folder().to_owned();
    let _server = ground.server.serve(8080, apps::echo)?;
    assert!(namespace.exists() && folder.exists());
    drop(ground);
    assert!(!namespace.exists() && !folder.exists());
    assert!(Path::new("/run/netns").exists());
    Ok(())
}
