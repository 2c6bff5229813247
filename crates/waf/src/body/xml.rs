//! XML: the text of a document as one, and the values of its attributes. Entities of its own are not expanded.

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Decoder, Reader};

use crate::found::{DEPTH_MAX, Found, VALUES_MAX};

/// Reads a document. What stands before an error is there too.
pub(super) fn read(body: &[u8], found: &mut Found) -> Result<(), String> {
    let mut text = String::new();
    let read = walk(body, &mut text, &mut found.xml_attributes);
    found.xml_text = Some(text.into_bytes());
    read
}

fn walk(body: &[u8], text: &mut String, attributes: &mut Vec<Vec<u8>>) -> Result<(), String> {
    let mut reader = Reader::from_reader(body);
    let mut depth = 0usize;
    loop {
        match reader.read_event().map_err(|error| format!("no XML: {error}"))? {
            Event::Start(start) => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(format!("the XML is nested deeper than {DEPTH_MAX}"));
                }
                add_attributes(&start, reader.decoder(), attributes)?;
            }
            Event::Empty(start) => add_attributes(&start, reader.decoder(), attributes)?,
            Event::End(_) => depth = depth.saturating_sub(1),
            Event::Text(part) => text.push_str(&part.decode().map_err(|error| error.to_string())?),
            Event::CData(part) => text.push_str(&String::from_utf8_lossy(&part)),
            Event::GeneralRef(name) => {
                let name = name.decode().map_err(|error| error.to_string())?;
                text.push_str(&entity(&name).ok_or_else(|| format!("the entity `{name}` is not expanded"))?);
            }
            Event::Eof if depth > 0 => return Err("the XML ends inside an element".to_owned()),
            Event::Eof => return Ok(()),
            _ => {}
        }
    }
}

fn add_attributes(start: &BytesStart, decoder: Decoder, attributes: &mut Vec<Vec<u8>>) -> Result<(), String> {
    for attribute in start.attributes().flatten() {
        if attributes.len() >= VALUES_MAX {
            return Err(format!("the XML has more than {VALUES_MAX} attributes"));
        }
        let value = attribute.decoded_and_normalized_value(XmlVersion::Implicit1_0, decoder);
        attributes.push(match value {
            Ok(value) => value.into_owned().into_bytes(),
            Err(_) => attribute.value.into_owned(),
        });
    }
    Ok(())
}

/// A predefined entity, or a character by number.
fn entity(name: &str) -> Option<String> {
    if let Some(text) = quick_xml::escape::resolve_predefined_entity(name) {
        return Some(text.to_owned());
    }
    let number = name.strip_prefix('#')?;
    let code = match number.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => number.parse(),
    };
    char::from_u32(code.ok()?).map(String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_come_out_and_own_entities_do_not() {
        let read = |text: &str| {
            let mut found = Found::default();
            let read = read(text.as_bytes(), &mut found);
            let attributes =
                found.xml_attributes.iter().map(|value| String::from_utf8_lossy(value).into_owned());
            (
                String::from_utf8(found.xml_text.unwrap()).unwrap(),
                attributes.collect::<Vec<_>>(),
                read.is_ok(),
            )
        };
        let (text, attributes, read_all) =
            read(r#"<a x="1&lt;"><b>un&#105;on<![CDATA[ <select>]]></b><c y='2'/></a>"#);
        assert_eq!((text.as_str(), read_all), ("union <select>", true));
        assert_eq!(attributes, ["1<", "2"]);
        assert!(!read(r#"<!DOCTYPE a [<!ENTITY e "x">]><a>&e;</a>"#).2);
        assert!(!read("<a>cut").2);
        assert_eq!(read("<a>cut").0, "cut");
        assert!(!read(&"<a>".repeat(DEPTH_MAX + 1)).2);
    }
}
