//! Policies that only report: what they say of real connections, and what the agent suggests.

use anyhow::Result;
use interceptor_tests::access::Line;
use interceptor_tests::apps;
use interceptor_tests::manifests::{AuthorizationPolicy, Rule, identity};
use interceptor_tests::world::World;
use serde_json::json;

#[test]
fn a_dry_run_policy_and_an_audit_policy_report_what_they_see_and_change_nothing() -> Result<()> {
    let deny = AuthorizationPolicy::deny("try")
        .rule(&Rule::from("caller"))
        .dry_run();
    let audit = AuthorizationPolicy::audit("watch").rule(&Rule::default().ports(&["8080"]));
    let Some(world) = World::with(&[&deny, &audit])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    assert_eq!(world.caller.ask(world.server.at(8080), "hello")?, "hello");

    let (_, far) = world.lines("the call", Line::is_allowed)?;
    assert!(
        far.text.contains(r#""audit":"demo/watch rule 0""#),
        "{far:?}"
    );
    let would = r#""dry_run":"demo/try rule 0: would refuse""#;
    assert!(far.text.contains(would), "{far:?}");
    let caller = identity("caller");
    let labels = [("policy", "demo/try"), ("effect", "would_refuse")];
    let metric = "interceptor_policy_shadow_connections_total";
    world.far.metric_reaches(metric, &labels, 1.0)?;

    let report = world.far.shadow()?;
    let count = |policy: &str, effect: &str| json!({"policy": policy, "effect": effect, "caller": caller, "connections": 1});
    let counts = [
        count("demo/try", "would_refuse"),
        count("demo/watch", "audited"),
    ];
    assert_eq!(report["counts"], json!(counts));
    assert_eq!(report["policies"].as_array().map(Vec::len), Some(2));
    Ok(())
}

#[test]
fn for_what_is_open_the_policy_that_would_allow_it_is_suggested() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let _open = world.caller.connect(world.server.at(8080))?;
    world.far.metric_reaches(
        "interceptor_connections_open",
        &[("reporter", "destination")],
        1.0,
    )?;

    let suggestion = world.far.suggest()?;
    let policy = &suggestion["policies"][0];
    assert_eq!(
        policy["selector"],
        json!({"app": "server"}),
        "{suggestion:#}"
    );
    assert_eq!(policy["rules"][0]["ports"], json!([8080]));
    let principal = identity("caller").replace("spiffe://", "");
    assert_eq!(
        policy["rules"][0]["callers"][0]["principal"],
        json!(principal)
    );
    Ok(())
}

#[test]
fn what_is_over_is_still_known_when_policies_are_suggested() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    for _ in 0..3 {
        assert_eq!(world.caller.ask(world.server.at(8080), "hello")?, "hello");
    }
    world.far.metric_reaches(
        "istio_tcp_connections_closed_total",
        &[("reporter", "destination")],
        3.0,
    )?;

    let suggestion = world.far.suggest()?;
    let caller = &suggestion["policies"][0]["rules"][0]["callers"][0];
    assert_eq!(caller["connections"], json!(3), "{suggestion:#}");
    Ok(())
}

#[test]
fn the_manifests_of_a_running_agent_are_analysed_without_naming_them() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let analysis = world.far.analyze()?;
    assert_eq!(analysis["files"], json!(1), "{analysis:#}");
    assert_eq!(
        analysis["objects"],
        json!(3),
        "a Namespace and two Pods: {analysis:#}"
    );
    Ok(())
}
