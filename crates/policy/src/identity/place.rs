//! Paths that sign-in actions answer themselves, where a visitor may be sent afterwards, and what a sealed cookie is bound to.

use aws_lc_rs::digest;
use http::request::Parts;

/// Where a provider sends the browser back to.
pub const CALLBACK_PATH: &str = "/ngrok/callback";
/// Signs in anew.
pub const LOGIN_PATH: &str = "/ngrok/login";
/// Ends the session.
pub const LOGOUT_PATH: &str = "/ngrok/logout";
/// Longest path that a visitor is sent to after a sign-in, in bytes.
const RETURN_BYTES_MAX: usize = 1024;
/// Longest `auth_id`, in characters.
pub(crate) const AUTH_ID_CHARS_MAX: usize = 64;

/// Whether a text may be an `auth_id`: it becomes part of a cookie's name and of `state`.
pub(crate) fn is_auth_id(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=AUTH_ID_CHARS_MAX).contains(&text.len()) && text.bytes().all(plain)
}

/// What a path of ours asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    Callback,
    Login,
    Logout,
}

/// A request for a path of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addressed {
    pub(crate) ask: Ask,
    /// The action it is for.
    pub(crate) auth_id: String,
}

/// What a request asks of the sign-in actions with these ids, in the order of the document. None: it is no path of theirs.
pub(crate) fn addressed(request: &Parts, auth_ids: &[String]) -> Option<Addressed> {
    let ask = match request.uri.path() {
        CALLBACK_PATH => Ask::Callback,
        LOGIN_PATH => Ask::Login,
        LOGOUT_PATH => Ask::Logout,
        _ => return None,
    };
    let named = match ask {
        Ask::Callback => {
            Some(parameter(request, "state").and_then(|state| auth_id_of(&state).map(str::to_owned))?)
        }
        Ask::Login | Ask::Logout => parameter(request, "auth_id"),
    };
    let auth_id = match named {
        Some(named) => auth_ids.iter().find(|known| **known == named)?.clone(),
        None => auth_ids.first()?.clone(),
    };
    Some(Addressed { ask, auth_id })
}

/// `state` as a provider gets it: what is random, and the action it is for.
pub(crate) fn state(random: &str, auth_id: &str) -> String {
    format!("{random}.{auth_id}")
}

fn auth_id_of(state: &str) -> Option<&str> {
    state.split_once('.').map(|(_, auth_id)| auth_id)
}

/// A parameter of the query, decoded. One that is there twice is not there.
pub(crate) fn parameter(request: &Parts, name: &str) -> Option<String> {
    let query = request.uri.query().unwrap_or_default();
    let mut found = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name);
    let value = found.next()?.1.into_owned();
    found.next().is_none().then_some(value)
}

/// Whether a visitor may be sent to a path: one slash, then a visible character other than `/` and `\`, and nothing that a
/// browser would drop or turn into a slash before it looks again.
pub(crate) fn is_return_path(path: &str) -> bool {
    let is_plain = |text: &[u8]| {
        text.first() == Some(&b'/')
            && !matches!(text.get(1), Some(b'/' | b'\\'))
            && text.iter().all(|b| b.is_ascii_graphic() && *b != b'\\')
    };
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    // What the path begins with once it is decoded again, as some servers do.
    let begins = |text: &[u8]| !matches!(text.get(1), Some(b) if *b == b'/' || *b == b'\\' || *b <= b' ' || *b == 0x7f);
    path.len() <= RETURN_BYTES_MAX && is_plain(path.as_bytes()) && begins(&decoded)
}

/// Binds a sealed text to a purpose and a place; opening it anywhere else fails.
pub(crate) fn binding(parts: &[&str]) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        // The length in front keeps neighbours apart.
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str) -> Parts {
        http::Request::builder().uri(uri).body(()).unwrap().into_parts().0
    }

    #[test]
    fn visitors_are_sent_to_paths_of_the_same_host_only() {
        for good in ["/", "/a", "/a/b?c=d&e=//f", "/a%20b", "/%C3%A9", "/.well-known"] {
            assert!(is_return_path(good), "{good}");
        }
        for bad in [
            "",
            "a",
            "//h",
            "/\\h",
            "\\h",
            "/\t/h",
            "/%09/h",
            "/%2f/h",
            "/%5ch",
            "/ /h",
            "/a\\b",
            "/\n/h",
            "/a\r\nx: y",
            "https://h/",
            "/%0a/h",
            "/é",
            "/%20/h",
        ] {
            assert!(!is_return_path(bad), "{bad:?}");
        }
        assert!(!is_return_path(&format!("/{}", "a".repeat(RETURN_BYTES_MAX))));
    }

    #[test]
    fn a_request_is_for_the_action_it_names_or_the_first() {
        let ids = ["one".to_owned(), "two".to_owned()];
        let check = |uri: &str, expect: Option<(Ask, &str)>| {
            let found = addressed(&request(uri), &ids);
            let expect = expect.map(|(ask, id)| Addressed { ask, auth_id: id.to_owned() });
            assert_eq!(found, expect, "{uri}");
        };
        check("/ngrok/login", Some((Ask::Login, "one")));
        check("/ngrok/logout?auth_id=two", Some((Ask::Logout, "two")));
        check("/ngrok/login?auth_id=three", None);
        check("/ngrok/callback?code=c&state=x.two", Some((Ask::Callback, "two")));
        check("/ngrok/callback?code=c&state=x", None);
        check("/ngrok/callback?code=c&state=x.one&state=x.two", None);
        check("/ngrok/callback", None);
        check("/ngrok/login/", None);
        check("/x?auth_id=one", None);
    }

    #[test]
    fn neighbours_cannot_be_shifted() {
        assert_ne!(binding(&["ab", "c"]), binding(&["a", "bc"]));
        assert_ne!(binding(&["a"]), binding(&["a", ""]));
    }
}
