//! Text to expression, by recursive descent; every step down is counted.

use super::expr::{Comparison, Expr, TextTest, Val, refused};
use crate::api::failure::ApiError;

/// Longest filter in bytes.
const SOURCE_BYTES_MAX: usize = 4096;
/// Deepest nesting.
const DEPTH_MAX: usize = 32;
const DAY_SECS: i64 = 86_400;

/// Reads a whole filter.
pub(super) fn parse(source: &str, root: &str) -> Result<Expr, ApiError> {
    if source.len() > SOURCE_BYTES_MAX {
        return Err(refused(format_args!("it is longer than {SOURCE_BYTES_MAX} bytes")));
    }
    let mut reader = Reader { source, root, at: 0, depth: 0 };
    let expr = reader.or()?;
    reader.blank();
    if reader.rest().is_empty() { Ok(expr) } else { Err(reader.unexpected()) }
}

struct Reader<'s> {
    source: &'s str,
    /// What the object is called.
    root: &'s str,
    /// Byte offset; always a character boundary.
    at: usize,
    depth: usize,
}

impl<'s> Reader<'s> {
    fn rest(&self) -> &'s str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn blank(&mut self) {
        self.at = self.source.len() - self.rest().trim_start().len();
    }

    /// Takes a mark if it comes next.
    fn takes(&mut self, mark: &str) -> bool {
        self.blank();
        let found = self.rest().starts_with(mark);
        if found {
            self.at += mark.len();
        }
        found
    }

    fn expect(&mut self, mark: &str) -> Result<(), ApiError> {
        if self.takes(mark) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn unexpected(&self) -> ApiError {
        let column = self.source.get(..self.at).unwrap_or_default().chars().count() + 1;
        match self.rest().chars().next() {
            Some(c) => refused(format_args!(
                "`{c}` at column {column} is not expected there, or not part of filters"
            )),
            None => refused("it ends too early"),
        }
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, ApiError>) -> Result<T, ApiError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(refused(format_args!("it is nested deeper than {DEPTH_MAX} levels")));
        }
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn or(&mut self) -> Result<Expr, ApiError> {
        self.deeper(|reader| {
            let mut left = reader.and()?;
            while reader.takes("||") {
                left = Expr::Or(Box::new(left), Box::new(reader.and()?));
            }
            Ok(left)
        })
    }

    fn and(&mut self) -> Result<Expr, ApiError> {
        let mut left = self.relation()?;
        while self.takes("&&") {
            left = Expr::And(Box::new(left), Box::new(self.relation()?));
        }
        Ok(left)
    }

    fn relation(&mut self) -> Result<Expr, ApiError> {
        let left = self.unary()?;
        let marks = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        if let Some((_, how)) = marks.into_iter().find(|(mark, _)| self.takes(mark)) {
            return Ok(Expr::Compare(how, Box::new(left), Box::new(self.unary()?)));
        }
        self.blank();
        if self.peek_name() == "in" {
            self.at += "in".len();
            return Ok(Expr::In(Box::new(left), Box::new(self.unary()?)));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, ApiError> {
        if self.takes("!") {
            return self.deeper(|reader| Ok(Expr::Not(Box::new(reader.unary()?))));
        }
        let mut expr = self.primary()?;
        while self.takes(".") {
            expr = self.member(expr)?;
        }
        Ok(expr)
    }

    fn primary(&mut self) -> Result<Expr, ApiError> {
        if self.takes("(") {
            let inner = self.or()?;
            self.expect(")")?;
            return Ok(inner);
        }
        if self.takes("[") {
            return self.list().map(Expr::List);
        }
        self.blank();
        match self.rest().chars().next() {
            Some(quote @ ('"' | '\'')) => self.text(quote).map(|text| Expr::Literal(Val::Text(text))),
            Some('-' | '0'..='9') => self.number(),
            Some('a'..='z' | 'A'..='Z' | '_') => self.name(),
            _ => Err(self.unexpected()),
        }
    }

    fn list(&mut self) -> Result<Vec<Expr>, ApiError> {
        let mut items = Vec::new();
        while !self.takes("]") {
            if !items.is_empty() {
                self.expect(",")?;
            }
            items.push(self.or()?);
        }
        Ok(items)
    }

    /// What follows a dot: a field, or a function of the value before it.
    fn member(&mut self, of: Expr) -> Result<Expr, ApiError> {
        self.blank();
        let name = self.peek_name().to_owned();
        if name.is_empty() {
            return Err(self.unexpected());
        }
        self.at += name.len();
        if self.takes("(") {
            let of = Box::new(of);
            let argument = self.or()?;
            self.expect(")")?;
            return match name.as_str() {
                "startsWith" => Ok(Expr::Text(TextTest::StartsWith, of, Box::new(argument))),
                "endsWith" => Ok(Expr::Text(TextTest::EndsWith, of, Box::new(argument))),
                "contains" => Ok(Expr::Text(TextTest::Contains, of, Box::new(argument))),
                "add" => Ok(Expr::Shift(of, duration(&argument)?)),
                "subtract" => Ok(Expr::Shift(of, -duration(&argument)?)),
                _ => Err(refused(format_args!("filters have no function `{name}`"))),
            };
        }
        match of {
            Expr::Field(mut steps) => {
                steps.push(name);
                Ok(Expr::Field(steps))
            }
            _ => Err(refused(format_args!("`.{name}` follows something that has no fields"))),
        }
    }

    fn name(&mut self) -> Result<Expr, ApiError> {
        let name = self.peek_name();
        self.at += name.len();
        match name {
            "true" => Ok(Expr::Literal(Val::Bool(true))),
            "false" => Ok(Expr::Literal(Val::Bool(false))),
            "null" => Ok(Expr::Literal(Val::Null)),
            root if root == self.root => Ok(Expr::Field(Vec::new())),
            "time" => {
                self.expect(".")?;
                self.expect("now")?;
                Ok(Expr::Now)
            }
            "size" | "timestamp" => {
                self.expect("(")?;
                let inner = Box::new(self.or()?);
                self.expect(")")?;
                Ok(if name == "size" { Expr::Size(inner) } else { Expr::Timestamp(inner) })
            }
            _ => Err(refused(format_args!(
                "`{name}` is unknown; objects are called `{0}`, as in `{0}.id`",
                self.root
            ))),
        }
    }

    fn peek_name(&self) -> &'s str {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        rest.get(..end).unwrap_or_default()
    }

    fn number(&mut self) -> Result<Expr, ApiError> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_digit() && !"-.".contains(c)).unwrap_or(rest.len());
        let digits = rest.get(..end).unwrap_or_default();
        let number = digits.parse().map_err(|_| refused(format_args!("`{digits}` is not a number")))?;
        self.at += end;
        Ok(Expr::Literal(Val::Number(number)))
    }

    fn text(&mut self, quote: char) -> Result<String, ApiError> {
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.at += at + quote.len_utf8();
                    return Ok(text);
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, c @ ('\\' | '"' | '\''))) => text.push(c),
                    _ => return Err(refused("a text has an escape other than \\\\, \\\", \\', \\n and \\t")),
                },
                c => text.push(c),
            }
        }
        Err(refused("a text is not closed"))
    }
}

/// `7d`, `24h`, `1h30m`: seconds of a literal text.
fn duration(of: &Expr) -> Result<i64, ApiError> {
    let bad = || refused("a duration is a text like \"7d\", \"24h\" or \"1h30m\"");
    let Expr::Literal(Val::Text(text)) = of else { return Err(bad()) };
    let (mut total, mut count): (i64, Option<i64>) = (0, None);
    for c in text.chars() {
        if let Some(digit) = c.to_digit(10) {
            let so_far = count.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(i64::from(digit)));
            count = Some(so_far.ok_or_else(bad)?);
            continue;
        }
        let unit = match c {
            'd' => DAY_SECS,
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return Err(bad()),
        };
        let part = count.take().ok_or_else(bad)?.checked_mul(unit);
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
    }
    if text.is_empty() || count.is_some() { Err(bad()) } else { Ok(total) }
}
