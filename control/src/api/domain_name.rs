//! Which names may be reserved, and which two reservations exclude each other. Pure.

use ebbgate_model::{AccountId, HOST_BYTES_MAX, Host, LABEL_BYTES_MAX};

use super::failure::ApiError;
use crate::record::Installation;

/// Top-level names that can never be public (RFC 6761, RFC 8375) and so can be used in a laboratory without harm.
const LABORATORY_SUFFIXES: [&str; 4] = ["test", "example", "localhost", "home.arpa"];

/// A name fit to be reserved.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DomainName {
    pub(super) host: Host,
    /// Whether no visitor from the internet can ever resolve it.
    pub(super) is_laboratory: bool,
}

/// Judges a name as `POST /reserved_domains` takes it. Errors carry the published codes.
pub(super) fn check(text: &str) -> Result<DomainName, ApiError> {
    let refuse = |code: u32, why: String| {
        Err(ApiError::bad(code, format!("`{text}` cannot be reserved: {why}")).detail("field", "domain"))
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() {
        return refuse(448, "a domain is a full name such as `app.example.com` or `*.example.com`".into());
    }
    if name.len() > HOST_BYTES_MAX {
        return refuse(514, format!("a name has at most {HOST_BYTES_MAX} characters"));
    }
    if name.contains("..") {
        return refuse(409, "it has two dots in a row".into());
    }
    for (at, label) in name.split('.').enumerate() {
        if let Some((code, why)) = label_fault(at, label) {
            return refuse(code, why);
        }
    }
    let Ok(host) = name.parse::<Host>() else {
        return refuse(448, "it is not a host name".into());
    };
    let exact = host.wildcard_suffix().unwrap_or(host.as_str());
    if !exact.contains('.') && !host.is_wildcard() {
        return refuse(448, "it is a single label; write the full name, such as `app.example.com`".into());
    }
    if host.is_internal() {
        return refuse(411, "`.internal` names need no reservation, every account has its own".into());
    }
    let is_laboratory = LABORATORY_SUFFIXES.iter().any(|suffix| {
        exact.strip_suffix(suffix).is_some_and(|front| front.is_empty() || front.ends_with('.'))
    });
    let Some(suffix) = psl::suffix(exact.as_bytes()).filter(|s| s.is_known() || is_laboratory) else {
        return refuse(411, "its last label is not a public top-level domain".into());
    };
    if suffix.as_bytes() == exact.as_bytes() && suffix.typ() != Some(psl::Type::Private) {
        return refuse(416, format!("all of `{exact}` would cover other people's names"));
    }
    Ok(DomainName { host, is_laboratory })
}

/// What is wrong with one label, as code and reason.
fn label_fault(at: usize, label: &str) -> Option<(u32, String)> {
    if label == "*" && at == 0 {
        return None;
    }
    if label.contains('*') {
        let code = if at == 0 { 403 } else { 402 };
        return Some((code, "`*` may only be the whole first label, as in `*.example.com`".into()));
    }
    if label.is_empty() {
        return Some((407, "it begins with a dot".into()));
    }
    if label.len() > LABEL_BYTES_MAX {
        return Some((513, format!("the label `{label}` has more than {LABEL_BYTES_MAX} characters")));
    }
    if label.contains('_') {
        return Some((438, "names of endpoints have no underscore".into()));
    }
    if let Some(c) = label.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-') {
        return Some((
            406,
            format!(
                "`{c}` is not one of a-z, A-Z, 0-9, `.`, `*` and `-`; write other letters in their `xn--` form"
            ),
        ));
    }
    if label.starts_with('-') {
        return Some((407, format!("the label `{label}` begins with `-`")));
    }
    if label.ends_with('-') {
        return Some((408, format!("the label `{label}` ends with `-`")));
    }
    if label.get(2..4) == Some("--") && !label.get(..2).is_some_and(|xn| xn.eq_ignore_ascii_case("xn")) {
        return Some((
            410,
            format!("the label `{label}` has `--` at its third place, which is kept for `xn--` names"),
        ));
    }
    None
}

/// The installation's own name that `host` is or would cover: where agents connect, where TCP addresses are, or the domain
/// under which agents get random names, together with all below that.
pub(super) fn own_name<'i>(host: &Host, installation: &'i Installation) -> Option<&'i Host> {
    let random = installation.default_domain.as_ref().filter(|own| is_at_or_below(host, own));
    let named = [&installation.connect_host, &installation.tcp_host].into_iter();
    random.or_else(|| named.chain(&installation.default_domain).find(|own| host == *own || host.covers(own)))
}

/// Length of the label of a random name, in hexadecimal digits. Edges give such names to agents.
const RANDOM_LABEL_CHARS: usize = 16;

/// Refuses the installation's own names (code 404). Names below its default domain are anybody's, but for the random ones.
pub(super) fn check_foreign(host: &Host, installation: &Installation) -> Result<(), ApiError> {
    let refuse = |message: String| Err(ApiError::bad(404, message).detail("field", "domain"));
    let own = own_name(host, installation);
    let named = [&installation.connect_host, &installation.tcp_host].into_iter();
    let is_own = named.chain(&installation.default_domain).find(|own| host == *own || host.covers(own));
    match (is_own.or(own), &installation.default_domain) {
        (None, _) => Ok(()),
        (Some(own), Some(default)) if own == default => match label_below(host, default) {
            Some(label) if is_random_label(label) => refuse(format!(
                "`{host}` cannot be reserved: names with {RANDOM_LABEL_CHARS} hexadecimal digits below `{default}` are given to agents at random"
            )),
            Some(_) => Ok(()),
            None => refuse(format!(
                "`{host}` cannot be reserved: `{own}` belongs to the installation itself; reserve a name below it, such as `app.{own}`"
            )),
        },
        (Some(own), _) => {
            refuse(format!("`{host}` cannot be reserved: `{own}` belongs to the installation itself"))
        }
    }
}

/// The label directly below a domain under which a name lies; None: it is the domain or all of it, or not below it.
fn label_below<'h>(host: &'h Host, domain: &Host) -> Option<&'h str> {
    let front = host.as_str().strip_suffix(domain.as_str())?.strip_suffix('.')?;
    front.rsplit('.').next().filter(|label| *label != "*")
}

fn is_random_label(label: &str) -> bool {
    label.len() == RANDOM_LABEL_CHARS && label.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Why `wanted` cannot be reserved beside a name that is taken; None when the two get along.
///
/// A reservation holds everything below its name: nobody else may reserve there, not even what it does not serve.
pub(super) fn clash(
    (account, wanted): (AccountId, &Host),
    (owner, taken): (AccountId, &Host),
) -> Option<ApiError> {
    let same_account = account == owner;
    if wanted == taken {
        return Some(if same_account {
            ApiError::conflict(413, format!("`{wanted}` is already reserved for this account"))
        } else {
            ApiError::conflict(414, format!("`{wanted}` is already reserved for another account"))
        });
    }
    if same_account {
        return None;
    }
    if is_at_or_below(wanted, taken) {
        return Some(ApiError::conflict(
            414,
            format!("`{wanted}` lies under a name reserved for another account"),
        ));
    }
    if wanted.is_wildcard() && is_at_or_below(taken, wanted) {
        let message = format!("the wildcard `{wanted}` would cover a name reserved for another account");
        return Some(ApiError::conflict(417, message));
    }
    None
}

/// Whether `name`, without its star, equals `above` without its star, or ends in a dot and it.
fn is_at_or_below(name: &Host, above: &Host) -> bool {
    let bare = |host: &Host| host.wildcard_suffix().unwrap_or(host.as_str()).to_owned();
    let (name, above) = (bare(name), bare(above));
    name.strip_suffix(above.as_str()).is_some_and(|front| front.is_empty() || front.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::{ErrorCode, Ksuid};

    #[test]
    fn names_are_judged_with_the_published_codes() {
        let check = |text: &str, expect: Result<&str, u32>| {
            let found = check(text);
            let found =
                found.as_ref().map(|d| d.host.as_str()).map_err(|e| e.code().map_or(0, ErrorCode::number));
            assert_eq!(found, expect, "{text}");
        };
        check("API.Clinic-Network.com", Ok("api.clinic-network.com"));
        check("*.clinic-network.com", Ok("*.clinic-network.com"));
        check("a.b.c.example.co.uk.", Ok("a.b.c.example.co.uk"));
        check("*.a.example.co.uk", Ok("*.a.example.co.uk"));
        check("clinic.test", Ok("clinic.test"));
        check("*.clinic.home.arpa", Ok("*.clinic.home.arpa"));
        check("", Err(448));
        check(".", Err(448));
        check("example", Err(448));
        check("a.*.example.com", Err(402));
        check("*.*.example.com", Err(402));
        check("a*.example.com", Err(403));
        check("**.example.com", Err(403));
        check("a b.example.com", Err(406));
        check("bücher.example.com", Err(406));
        check("-a.example.com", Err(407));
        check(".example.com", Err(407));
        check("a-.example.com", Err(408));
        check("a..example.com", Err(409));
        check("ab--c.example.com", Err(410));
        check("a_b.example.com", Err(438));
        check(&format!("{}.example.com", "a".repeat(64)), Err(513));
        check(&format!("{}example.com", "a.".repeat(122)), Err(514));
        check("*.com", Err(416));
        check("*.co.uk", Err(416));
        check("co.uk", Err(416));
        check("*.test", Err(416));
        check("*", Err(448));
        check("a.clinic1.internal", Err(411));
        check("db.lan", Err(411));
        check("10.0.0.1", Err(411));
    }

    #[test]
    fn names_of_the_installation_are_nobodys() {
        let installation = Installation {
            region: "local".into(),
            connect_host: "connect.gate.example".parse().unwrap(),
            tcp_host: "tcp.example.org".parse().unwrap(),
            tcp_port_first: 1,
            tcp_port_last: 2,
            random_port_first: 3,
            random_port_last: 4,
            default_domain: Some("random.example.net".parse().unwrap()),
        };
        let check = |host: &str, expect: Option<&str>| {
            let own = own_name(&host.parse().unwrap(), &installation).map(Host::as_str);
            assert_eq!(own, expect, "{host}");
        };
        let free = |host: &str, expect: bool| {
            assert_eq!(check_foreign(&host.parse().unwrap(), &installation).is_ok(), expect, "{host}");
        };
        for host in ["connect.gate.example", "*.gate.example", "tcp.example.org", "*.example.org"] {
            free(host, false);
        }
        // Below the default domain anybody may have a name, but neither all of it nor one that is given away at random.
        for host in ["random.example.net", "*.random.example.net", "*.example.net"] {
            free(host, false);
        }
        for host in ["0123456789abcdef.random.example.net", "a.0123456789abcdef.random.example.net"] {
            free(host, false);
        }
        for host in ["a.random.example.net", "a.b.random.example.net", "*.b.random.example.net"] {
            free(host, true);
        }
        for host in ["0123456789abcdeg.random.example.net", "a.connect.gate.example", "gate.example"] {
            free(host, true);
        }
        check("connect.gate.example", Some("connect.gate.example"));
        check("*.gate.example", Some("connect.gate.example"));
        check("a.connect.gate.example", None);
        check("tcp.example.org", Some("tcp.example.org"));
        check("*.example.org", Some("tcp.example.org"));
        check("a.random.example.net", Some("random.example.net"));
        check("*.random.example.net", Some("random.example.net"));
        check("*.example.net", Some("random.example.net"));
        check("example.net", None);
        check("gate.example", None);
    }

    #[test]
    fn reservations_exclude_each_other_across_accounts_only() {
        let account = |n: u8| AccountId::new(Ksuid::new(1_700_000_000, [n; 16]));
        let check = |wanted: &str, owner: u8, taken: &str, expect: Option<u32>| {
            let (wanted, taken): (Host, Host) = (wanted.parse().unwrap(), taken.parse().unwrap());
            let found = clash((account(1), &wanted), (account(owner), &taken));
            assert_eq!(
                found.and_then(|e| e.code()).map(ErrorCode::number),
                expect,
                "{wanted} beside {taken}"
            );
        };
        check("a.example.com", 1, "a.example.com", Some(413));
        check("a.example.com", 1, "*.example.com", None);
        check("*.example.com", 1, "a.example.com", None);
        check("a.example.com", 2, "a.example.com", Some(414));
        check("a.example.com", 2, "*.example.com", Some(414));
        check("a.b.example.com", 2, "*.example.com", Some(414));
        check("example.com", 2, "*.example.com", Some(414));
        check("a.example.com", 2, "example.com", Some(414));
        check("*.example.com", 2, "a.example.com", Some(417));
        check("*.example.com", 2, "example.com", Some(414));
        check("example.com", 2, "a.example.com", None);
        check("badexample.com", 2, "*.example.com", None);
        check("a.example.com", 2, "b.example.com", None);
    }
}
