//! The audit log on the dashboard: an account's own entries, by actor and object, page after page, for owners and admins.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ebbgate_control::audit::{Appender, ENTRIES_SHOWN_MAX, Retention, SigningKey};
use ebbgate_control::people::Role;
use serde_json::json;
use tokio::task::JoinSet;

use crate::lab::Lab;

/// Moves entries into the chain for as long as the set lives.
async fn appender(lab: &Lab) -> JoinSet<()> {
    let app = &lab.app;
    let appender = Appender {
        store: app.store.clone(),
        key: SigningKey::load(&*app.store, &app.vault, &*app.entropy).await.unwrap(),
        clock: app.clock.clone(),
        link: app.events.audit.clone(),
        retention: Retention { days: 400, bytes: 64 << 20 },
        heads: None,
        deliver: Arc::new(|_| Box::pin(async {})),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(appender.run());
    tasks
}

#[tokio::test]
async fn owners_and_admins_see_their_accounts_entries() {
    let lab = Lab::new().await;
    let _tasks = appender(&lab).await;
    let ann = lab.person(lab.one.account, "ann@example.com", Role::Owner).await;
    let made = lab.call(&ann.tenant, "POST", "/vaults", Some(json!({"name": "of-ann"}))).await.expect(201);
    let others = lab.call(&lab.two, "POST", "/vaults", Some(json!({"name": "of-others"}))).await.expect(201);
    for n in 0..ENTRIES_SHOWN_MAX + 3 {
        let description = format!("<b>{n}</b>");
        lab.make("/credentials", json!({ "description": description })).await;
    }
    let token = lab.make("/credentials", json!({"description": "the last"})).await.text("token");
    // The last one is in the chain: then all are.
    let start = Instant::now();
    let page = loop {
        let page = lab.visit("/dashboard/audit", Some(&ann.cookie)).await.expect(200);
        if page.text.contains("the last") {
            break page;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{}", page.text);
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(page.text.matches("<details>").count(), ENTRIES_SHOWN_MAX);
    assert!(page.text.contains("&lt;b&gt;") && !page.text.contains("<b>"), "{}", page.text);
    assert!(!page.text.contains(&token) && !page.text.contains(&made.id()), "{}", page.text);

    let older = page.text.split("href=\"/dashboard/audit?").nth(1).unwrap().split('"').next().unwrap();
    let older = format!("/dashboard/audit?{older}");
    let page = lab.visit(&older, Some(&ann.cookie)).await.expect(200);
    assert!(page.text.contains(&made.id()) && page.text.contains("&lt;b&gt;0&lt;/b&gt;"), "{}", page.text);
    assert!(!page.text.contains(&others.id()) && !page.text.contains("of-others"), "{}", page.text);

    for (query, expect) in [
        ("actor=ann@example.com", &[("of-ann", true), ("the last", false)]),
        ("actor=API_key", &[("of-ann", false), ("the last", true)]),
        (&format!("object={}", made.id()), &[("of-ann", true), ("the last", false)]),
        ("object=vault_created", &[("of-ann", true), ("the last", false)]),
        ("actor=nobody", &[("of-ann", false), ("the last", false)]),
    ] {
        let page = lab.visit(&format!("/dashboard/audit?{query}"), Some(&ann.cookie)).await.expect(200);
        for (text, is_there) in expect {
            assert_eq!(page.text.contains(text), *is_there, "{text} with {query}: {}", page.text);
        }
    }

    let bob = lab.person(lab.one.account, "bob@example.com", Role::Admin).await;
    lab.visit("/dashboard/audit", Some(&bob.cookie)).await.expect(200);
    let eve = lab.person(lab.one.account, "eve@example.com", Role::Viewer).await;
    lab.visit("/dashboard/audit", Some(&eve.cookie)).await.expect(403);
    let shown = lab.visit("/dashboard", Some(&eve.cookie)).await.expect(200);
    assert!(!shown.text.contains("/dashboard/audit"), "{}", shown.text);
}
