//! Certificates of an ACME authority: Debian's pebble, which refuses every fifth nonce, checks names at the lab's edge and at
//! Debian's named.

mod authority;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ebbgate_lab::api::text;
use ebbgate_lab::http;
use ebbgate_lab::lab::local;
use ebbgate_lab::program::run;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::{soon, until};
use serde_json::{Value, json};

use self::authority::{Authority, OTHER_TXT, Wishes, configure, is_installed, operator};
use crate::visitor::Visitor;

/// Time for a certificate: bad nonces are tried again after seconds.
const ISSUED: Duration = Duration::from_secs(100);

/// A lab with its authority; control has not started.
fn lab(wishes: &Wishes, more: impl Fn(&Authority) -> Vec<String>) -> Result<(TestLab, Authority)> {
    let lab = TestLab::stopped()?;
    let authority = Authority::start(&lab, lab.file("").as_path(), wishes)?;
    let mut flags = authority.flags();
    flags.extend(more(&authority));
    configure(&lab, &flags)?;
    Ok((lab, authority))
}

/// Reserves a name that asks for a certificate, with an endpoint that answers `hello`. Gives the domain's id.
fn reserve(lab: &TestLab, name: &str, key_type: &str) -> Result<String> {
    let api = lab.api()?;
    let policy = json!({ "authority": "letsencrypt", "private_key_type": key_type });
    let body = json!({ "domain": name, "certificate_management_policy": policy });
    let domain = api.create("/reserved_domains", &body)?;
    ensure!(!domain["certificate_management_status"]["provisioning_job"].is_null(), "{domain}");
    let hello = json!({ "on_http_request": [
        { "actions": [{ "type": "custom-response", "config": { "status_code": 200, "body": "hello" } }] }
    ]});
    let body = json!({ "url": format!("https://{name}"), "traffic_policy": hello.to_string() });
    api.create("/endpoints", &body)?;
    Ok(text(&domain, "id")?.to_owned())
}

/// Waits until a domain has a certificate and nothing is to be done. Gives its status.
fn issued(lab: &TestLab, authority: &Authority, id: &str) -> Result<Value> {
    let status = || -> Result<Value> {
        Ok(lab.api()?.read(&format!("/reserved_domains/{id}"))?["certificate_management_status"].clone())
    };
    let is_done = |status: &Value| !status["renews_at"].is_null() && status["provisioning_job"].is_null();
    until(ISSUED, "a certificate", || Ok(Some(status()?).filter(is_done))).inspect_err(|_| {
        lab.show_logs();
        println!("{:?}\n{}", status(), authority.pebble.log().unwrap_or_default());
    })
}

/// Waits until a visitor that trusts the authority alone is answered.
fn answered(lab: &TestLab, authority: &Authority, name: &str) -> Result<Visitor> {
    let visitor = Visitor::trusting(lab, &authority.root_pem()?)?;
    soon(&format!("https://{name}"), || {
        Ok(visitor.get(name, "/", &[]).ok().filter(|a| a.text() == "hello"))
    })?;
    Ok(visitor)
}

/// The visitor's TLS error, which must be the alert for names that are not served.
fn refused(visitor: &Visitor, name: &str) -> Result<()> {
    match visitor.tls(name) {
        Ok(_) => bail!("{name} has a certificate"),
        Err(error) if format!("{error:?}").contains("UnrecognisedName") => Ok(()),
        Err(error) => Err(error.context("another error than the alert")),
    }
}

#[test]
fn http_01_is_answered_before_every_rule_and_no_name_shows_anothers_certificate() -> Result<()> {
    if !is_installed("acme::http_01_is_answered_before_every_rule_and_no_name_shows_anothers_certificate") {
        return Ok(());
    }
    let (mut lab, authority) = lab(&Wishes::default(), |_| Vec::new())?;
    lab.start()?;
    let api = lab.api()?;
    // Nobody gets in at this name in clear, and the authority comes from there.
    let closed = json!({ "on_tcp_connect": [
        { "actions": [{ "type": "restrict-ips", "config": { "enforce": true, "deny": ["0.0.0.0/0", "::/0"] } }] }
    ], "on_http_request": [{ "actions": [{ "type": "deny" }] }] });
    let id = reserve(&lab, "a.example.com", "ecdsa")?;
    let body = json!({ "url": "http://a.example.com", "traffic_policy": closed.to_string() });
    api.create("/endpoints", &body)?;
    // The name service has no such name, and no wildcard's certificate is shown for it.
    let lost = reserve(&lab, "lost.example.org", "ecdsa")?;
    let wild = reserve(&lab, "*.wild.example.com", "ecdsa")?;
    let status = issued(&lab, &authority, &id)?;
    let visitor = answered(&lab, &authority, "a.example.com")?;
    refused(&visitor, "lost.example.org")?;
    refused(&visitor, "x.wild.example.com")?;
    ensure!(
        authority.orders()? == 2,
        "an order for each name that can be proved here, and none for the wildcard"
    );

    let failure = |id: &str| -> Result<Value> {
        until(ISSUED, "a failure", || {
            let domain = api.read(&format!("/reserved_domains/{id}"))?;
            let job = domain["certificate_management_status"]["provisioning_job"].clone();
            Ok(Some(job).filter(|job| job["error_code"] == "DNS_ERROR"))
        })
    };
    let job = failure(&lost)?;
    ensure!(text(&job, "msg")?.contains("lost.example.org") || !text(&job, "msg")?.is_empty(), "{job}");
    let job = failure(&wild)?;
    ensure!(text(&job, "msg")?.contains("--acme-dns"), "{job}");
    let ready = operator(&lab, "/readyz")?;
    ensure!(ready.starts_with("ready\n"), "{ready}");
    for name in ["lost.example.org", "*.wild.example.com"] {
        ensure!(ready.contains(&format!("certificate: {name}: has no certificate: ")), "{ready}");
    }
    let metrics = operator(&lab, "/metrics")?;
    for line in ["acme_names 3", "acme_names_failing 2", "certificate_expiry_seconds{issuer=\"acme\"} "] {
        ensure!(metrics.contains(&format!("ebbgate_control_{line}")), "{line} in {metrics}");
    }

    // The path is a visitor's like any other when nothing is being proved.
    let at = local(lab.ports().http());
    let path = "/.well-known/acme-challenge/LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0";
    let after = http::request(http::connect(at)?, "GET", "a.example.com", path, &[], b"").map(|a| a.status);
    ensure!(
        after.as_ref().map_or(true, |status| *status != 200),
        "{after:?} from an endpoint that lets nobody in"
    );
    ensure!(!text(&status, "renews_at")?.is_empty());
    Ok(())
}

#[test]
fn tls_alpn_01_with_an_rsa_key_shows_the_challenge_to_nobody_else() -> Result<()> {
    if !is_installed("acme::tls_alpn_01_with_an_rsa_key_shows_the_challenge_to_nobody_else") {
        return Ok(());
    }
    let (mut lab, authority) =
        lab(&Wishes::default(), |_| vec!["--acme-challenge".into(), "tls-alpn-01".into()])?;
    lab.start()?;
    let id = reserve(&lab, "b.example.com", "rsa")?;
    issued(&lab, &authority, &id)?;
    let visitor = answered(&lab, &authority, "b.example.com")?;
    let tls = visitor.tls("b.example.com")?;
    let leaf = tls.conn.peer_certificates().and_then(<[_]>::first).context("a certificate")?;
    // rsaEncryption, RFC 8017 appendix C.
    let rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    ensure!(leaf.windows(rsa.len()).any(|bytes| bytes == rsa), "the key is none of RSA");
    Ok(())
}

#[test]
fn dns_01_by_updates_and_by_a_hook_proves_wildcards_and_removes_its_own_record_alone() -> Result<()> {
    if !is_installed(
        "acme::dns_01_by_updates_and_by_a_hook_proves_wildcards_and_removes_its_own_record_alone",
    ) {
        return Ok(());
    }
    let (mut lab, authority) = lab(&Wishes::default(), Authority::dns_flags)?;
    lab.start()?;
    let id = reserve(&lab, "*.wild.example.com", "ecdsa")?;
    issued(&lab, &authority, &id)?;
    answered(&lab, &authority, "x.wild.example.com")?;
    soon("our TXT record to be gone", || {
        Ok((authority.txt("_acme-challenge.wild.example.com")? == [OTHER_TXT]).then_some(()))
    })?;
    ensure!(lab.stop_control()?, "control stops");

    let hook = lab.write("hook", &hook(&authority))?;
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
    configure(&lab, &["--acme-dns-hook".into(), hook.display().to_string()])?;
    lab.start_control()?;
    let id = reserve(&lab, "*.hooked.example.com", "ecdsa")?;
    issued(&lab, &authority, &id)?;
    answered(&lab, &authority, "x.hooked.example.com")?;
    let told = fs::read_to_string(lab.file("hook.told"))?;
    let told: Vec<Vec<&str>> = told.lines().map(|line| line.split(' ').collect()).collect();
    let words: BTreeSet<_> = told.iter().filter_map(|line| line.first()).collect();
    ensure!(words == BTreeSet::from([&"add", &"remove"]), "{told:?}");
    ensure!(
        told.iter().all(|line| line.len() == 3 && line[1] == "_acme-challenge.hooked.example.com"),
        "{told:?}"
    );
    ensure!(authority.txt("_acme-challenge.hooked.example.com")?.is_empty());
    Ok(())
}

/// An operator's hook around `nsupdate`.
fn hook(authority: &Authority) -> String {
    let (port, key) = (authority.name_service(), authority.tsig().display());
    format!(
        "#!/bin/sh\nset -e\necho \"$@\" >>\"$0.told\"\ncase $1 in add) what=\"add $2 1\" ;; remove) what=\"delete $2\" ;; esac\n\
         printf 'server 127.0.0.1 {port}\\nzone example.com\\nupdate %s TXT \"%s\"\\nsend\\n' \"$what\" \"$3\" | nsupdate -k {key}\n"
    )
}

#[test]
fn an_order_is_gone_on_with_after_control_was_killed() -> Result<()> {
    if !is_installed("acme::an_order_is_gone_on_with_after_control_was_killed") {
        return Ok(());
    }
    let (mut lab, authority) = lab(&Wishes::default(), |_| Vec::new())?;
    // Without an edge the order waits for one.
    lab.start_control()?;
    let names = ["a.example.com", "b.example.com", "c.example.com"];
    let ids = names.iter().map(|name| reserve(&lab, name, "ecdsa")).collect::<Result<Vec<_>>>()?;
    for _ in 0..3 {
        until(ISSUED, "all orders to be stored", || {
            // Of all that ran so far.
            let log = fs::read_to_string(lab.log_dir().join("control.log"))?;
            let ordered = |name: &&str| log.contains(&format!("ordered a certificate host={name} "));
            Ok(names.iter().all(ordered).then_some(()))
        })?;
        lab.kill_control();
        lab.start_control()?;
    }
    lab.start_edge()?;
    for (name, id) in names.iter().zip(&ids) {
        issued(&lab, &authority, id)?;
        answered(&lab, &authority, name)?;
    }
    ensure!(authority.orders()? == names.len(), "{} orders for {} names", authority.orders()?, names.len());
    Ok(())
}

#[test]
fn certificates_are_renewed_under_traffic_without_a_failed_request() -> Result<()> {
    if !is_installed("acme::certificates_are_renewed_under_traffic_without_a_failed_request") {
        return Ok(());
    }
    let (mut lab, authority) = lab(&Wishes { life_secs: 40 }, |_| Vec::new())?;
    lab.start()?;
    let id = reserve(&lab, "a.example.com", "ecdsa")?;
    issued(&lab, &authority, &id)?;
    let visitor = answered(&lab, &authority, "a.example.com")?;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let traffic = {
        let (visitor, stop, answered) = (visitor.clone(), stop.clone(), answered.clone());
        std::thread::spawn(move || -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                let answer = visitor.get("a.example.com", "/", &[])?;
                ensure!(answer.text() == "hello", "{answer:?}");
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })
    };
    let mut seen = BTreeSet::new();
    let root = authority.root_pem()?;
    let renewed = until(Duration::from_mins(3), "two renewals", || {
        // A visitor with no session to resume: the certificate is shown, and has to be valid now.
        let tls = Visitor::trusting(&lab, &root)?.tls("a.example.com")?;
        let leaf = tls.conn.peer_certificates().and_then(<[_]>::first).context("a certificate")?;
        seen.insert(leaf.to_vec());
        Ok((seen.len() >= 3).then_some(()))
    });
    stop.store(true, Ordering::Relaxed);
    traffic.join().expect("no panic").inspect_err(|_| lab.show_logs())?;
    renewed.inspect_err(|_| lab.show_logs())?;
    ensure!(answered.load(Ordering::Relaxed) > 100, "{answered:?} requests");
    Ok(())
}

#[test]
fn the_page_shows_what_control_prints() -> Result<()> {
    const PAGE: &str = include_str!("../../docs/certificates.md");
    let block = |kind: &str| {
        let after = PAGE.split_once(&format!("```{kind}\n")).map(|(_, after)| after);
        after.and_then(|after| after.split_once("\n```")).map(|(block, _)| block).context("a block")
    };
    let lab = TestLab::stopped()?;
    let mut printed = String::new();
    for line in block("sh")?.lines() {
        let mut words = line.split(' ').map(|word| match word {
            "/var/lib/ebbgate" => lab.dir().display().to_string(),
            word => word.to_owned(),
        });
        ensure!(words.next().as_deref() == Some("ebbgate-control"), "{line}");
        let ran = run(Command::new(lab.programs().control()).args(words))?;
        ensure!(ran.ok, "{line}: {}", ran.text);
        printed = ran.text;
    }
    ensure!(printed.contains(block("json")?), "{printed}");
    Ok(())
}

#[test]
fn an_uploaded_certificate_replaces_the_one_in_use_without_a_failed_request() -> Result<()> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    let hello = json!({ "on_http_request": [
        { "actions": [{ "type": "custom-response", "config": { "status_code": 200, "body": "hello" } }] }
    ]});
    let domain = api.create("/reserved_domains", &json!({ "domain": "a.example.com" }))?;
    let body = json!({ "url": "https://a.example.com", "traffic_policy": hello.to_string() });
    api.create("/endpoints", &body)?;
    let upload = || -> Result<(String, Vec<u8>)> {
        let signed = rcgen::generate_simple_self_signed(vec!["a.example.com".to_owned()])?;
        let (pem, key) = (signed.cert.pem(), signed.signing_key.serialize_pem());
        let body = json!({ "certificate_pem": pem, "private_key_pem": key });
        Ok((text(&api.create("/tls_certificates", &body)?, "id")?.to_owned(), signed.cert.der().to_vec()))
    };
    let path = format!("/reserved_domains/{}", text(&domain, "id")?);
    let attach = |id: &str| api.call("PATCH", &path, Some(&json!({ "certificate_id": id })));
    let shown = || -> Result<Vec<u8>> {
        let any = Visitor::any(&lab)?.tls("a.example.com")?;
        Ok(any.conn.peer_certificates().and_then(<[_]>::first).context("a certificate")?.to_vec())
    };
    Visitor::of(&lab)?.wait_https("a.example.com")?;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let traffic = {
        let (visitor, stop, answered) = (Visitor::any(&lab)?, stop.clone(), answered.clone());
        std::thread::spawn(move || -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                ensure!(visitor.get("a.example.com", "/", &[])?.text() == "hello");
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })
    };
    for _ in 0..3 {
        let (id, der) = upload()?;
        ensure!(attach(&id)?.0 == 200);
        let before = answered.load(Ordering::Relaxed);
        soon("the uploaded certificate", || Ok((shown()? == der).then_some(())))?;
        soon("more requests", || Ok((answered.load(Ordering::Relaxed) > before + 20).then_some(())))?;
    }
    stop.store(true, Ordering::Relaxed);
    traffic.join().expect("no panic")
}
