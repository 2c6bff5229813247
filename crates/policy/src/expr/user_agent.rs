//! A User-Agent header in broad strokes: enough to tell browsers, bots and phones apart, without a database.

/// What the header suggests. Unknown parts are empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Agent {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) os: String,
    pub(super) os_version: String,
    pub(super) device: String,
    /// The page a bot names in its comment.
    pub(super) url: String,
    pub(super) mobile: bool,
    pub(super) tablet: bool,
    pub(super) bot: bool,
}

impl Agent {
    pub(super) fn is_desktop(&self) -> bool {
        !self.mobile && !self.tablet && !self.bot && !self.os.is_empty()
    }
}

/// Product tokens from the most to the least telling; a browser that imitates others names itself by the first.
const PRODUCTS: &[(&str, &str)] = &[
    ("Edg/", "Edge"),
    ("EdgA/", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Browser"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("HeadlessChrome/", "Headless Chrome"),
    ("Chrome/", "Chrome"),
];

const BOTS: &[&str] = &["bot", "crawl", "spider", "slurp", "facebookexternalhit", "headlesschrome"];

pub(super) fn parse(header: &str) -> Agent {
    let lower = header.to_ascii_lowercase();
    let mut agent = Agent { bot: BOTS.iter().any(|mark| lower.contains(mark)), ..Agent::default() };
    agent.tablet = lower.contains("ipad")
        || lower.contains("tablet")
        || (lower.contains("android") && !lower.contains("mobile"));
    agent.mobile = !agent.tablet && (lower.contains("mobile") || lower.contains("iphone"));
    (agent.name, agent.version) = product(header);
    (agent.os, agent.os_version) = system(header);
    agent.device = ["iPhone", "iPad", "Macintosh"]
        .iter()
        .find(|device| header.contains(*device))
        .map_or_else(String::new, |d| (*d).to_owned());
    agent.url = ["https://", "http://"]
        .iter()
        .find_map(|scheme| after(header, scheme).map(|rest| format!("{scheme}{rest}")))
        .unwrap_or_default();
    agent
}

fn product(header: &str) -> (String, String) {
    for (token, name) in PRODUCTS {
        if let Some(version) = after(header, token) {
            return ((*name).to_owned(), version);
        }
    }
    if header.contains("Safari/") {
        return ("Safari".to_owned(), after(header, "Version/").unwrap_or_default());
    }
    let first = header.split_whitespace().next().unwrap_or_default();
    let (name, version) = first.split_once('/').unwrap_or((first, ""));
    (name.to_owned(), version.to_owned())
}

fn system(header: &str) -> (String, String) {
    let marks = [
        ("Windows NT ", "Windows"),
        ("Windows Phone ", "Windows Phone"),
        ("Android ", "Android"),
        ("CPU iPhone OS ", "iOS"),
        ("CPU OS ", "iOS"),
        ("Mac OS X ", "macOS"),
        ("CrOS ", "ChromeOS"),
    ];
    for (mark, name) in marks {
        if let Some(version) = after(header, mark) {
            return (name.to_owned(), version.replace('_', "."));
        }
    }
    if header.contains("Linux") {
        ("Linux".to_owned(), String::new())
    } else {
        (String::new(), String::new())
    }
}

/// The word that follows `mark`.
fn after(header: &str, mark: &str) -> Option<String> {
    let (_, rest) = header.split_once(mark)?;
    let end = rest.find(|c: char| c.is_whitespace() || matches!(c, ';' | ')' | ',')).unwrap_or(rest.len());
    rest.get(..end).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_agents() {
        let check = |header: &str, name: &str, version: &str, os: &str, kind: &str| {
            let agent = parse(header);
            let is = if agent.bot {
                "bot"
            } else if agent.tablet {
                "tablet"
            } else if agent.mobile {
                "mobile"
            } else if agent.is_desktop() {
                "desktop"
            } else {
                ""
            };
            assert_eq!(
                (agent.name.as_str(), agent.version.as_str(), agent.os.as_str(), is),
                (name, version, os, kind),
                "{header}"
            );
        };
        check(
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
            "Chrome",
            "126.0.0.0",
            "Windows",
            "desktop",
        );
        check(
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
            "Safari",
            "17.5",
            "iOS",
            "mobile",
        );
        check(
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "Mozilla",
            "5.0",
            "",
            "bot",
        );
        check("curl/8.5.0", "curl", "8.5.0", "", "");
        check("", "", "", "", "");
        assert_eq!(parse("x (+http://www.google.com/bot.html)").url, "http://www.google.com/bot.html");
    }
}
