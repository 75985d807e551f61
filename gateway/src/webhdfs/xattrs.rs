//! Extended attributes. Values travel as text in quotes, or as hexadecimal or base64 digits after `0x` or `0s`.

use std::collections::BTreeSet;

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::XattrMode;
use serde_json::{Value, json};

use super::call::{empty, json_answer};
use super::{Answer, Call, Exception, Refusal};

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Text,
    Hex,
    Base64,
}

impl Encoding {
    fn of(call: &Call) -> Result<Self, Refusal> {
        match call.params.text("encoding") {
            None => Ok(Self::Text),
            Some(text) => match text.to_lowercase().as_str() {
                "text" => Ok(Self::Text),
                "hex" => Ok(Self::Hex),
                "base64" => Ok(Self::Base64),
                _ => Err(Refusal::parameter(
                    "encoding",
                    format!("\"{text}\" is none of text, hex, base64"),
                )),
            },
        }
    }

    fn encode(self, value: &[u8]) -> String {
        match self {
            Self::Text => format!("\"{}\"", String::from_utf8_lossy(value)),
            Self::Hex => format!("0x{}", crate::status::hex(value)),
            Self::Base64 => format!("0s{}", base64(value)),
        }
    }
}

/// The bytes of a value as a client writes it.
fn decode(text: &[u8]) -> Result<Vec<u8>, Refusal> {
    let bad = |why: &str| Refusal::parameter("xattr.value", why);
    if text.len() >= 2 && text.first() == Some(&b'"') && text.last() == Some(&b'"') {
        return Ok(text[1..text.len() - 1].to_vec());
    }
    let (prefix, digits) = text.split_at(text.len().min(2));
    match prefix {
        b"0x" | b"0X" => unhex(digits).ok_or_else(|| bad("not hexadecimal digits in pairs")),
        b"0s" | b"0S" => unbase64(digits).ok_or_else(|| bad("not base64")),
        _ => Ok(text.to_vec()),
    }
}

fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let pairs = digits.chunks(2);
    pairs
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect()
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for index in 0..4 {
            if index > group.len() {
                text.push('=');
            } else {
                let digit = (bits >> (18 - 6 * index)) & 63;
                text.push(char::from(BASE64[digit as usize]));
            }
        }
    }
    text
}

fn unbase64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text
        .iter()
        .rposition(|&byte| byte != b'=')
        .map_or(0, |last| last + 1);
    if text.len() - end > 2 || !text.len().is_multiple_of(4) {
        return None;
    }
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for &byte in &text[..end] {
        let digit = BASE64.iter().position(|&known| known == byte)?;
        bits = bits << 6 | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

/// One attribute as clients read it. Names are text there.
fn entry(name: &[u8], value: &[u8], encoding: Encoding) -> Value {
    json!({ "name": String::from_utf8_lossy(name), "value": encoding.encode(value) })
}

pub(super) async fn get(call: &Call) -> Answer {
    let encoding = Encoding::of(call)?;
    let asked: BTreeSet<Vec<u8>> = call.params.all("xattr.name").map(<[u8]>::to_vec).collect();
    let mut found = Vec::new();
    if asked.is_empty() {
        let names = call.fs.list_xattrs(call.place(), true).await;
        for name in names.map_err(|error| call.fail(error))? {
            match call.fs.get_xattr(call.place(), name.clone(), true).await {
                Ok(value) => found.push(entry(&name, &value, encoding)),
                // Removed meanwhile.
                Err(error) if error.code() == ErrorCode::NoAttribute => {}
                Err(error) => return Err(call.fail(error)),
            }
        }
    }
    for name in asked {
        match call.fs.get_xattr(call.place(), name.clone(), true).await {
            Ok(value) => found.push(entry(&name, &value, encoding)),
            Err(error) if error.code() == ErrorCode::NoAttribute => {
                let message = "At least one of the attributes provided was not found.";
                return Err(Refusal::new(Exception::Io, message));
            }
            Err(error) => return Err(call.fail(error)),
        }
    }
    Ok(json_answer(json!({ "XAttrs": found })))
}

pub(super) async fn list(call: &Call) -> Answer {
    let names = call.fs.list_xattrs(call.place(), true).await;
    let names = names.map_err(|error| call.fail(error))?;
    let names: Vec<_> = names
        .iter()
        .map(|name| String::from_utf8_lossy(name))
        .collect();
    // JSON inside JSON: so it is.
    Ok(json_answer(
        json!({ "XAttrNames": json!(names).to_string() }),
    ))
}

pub(super) async fn set(call: &Call) -> Answer {
    let name = call.params.required("xattr.name")?;
    let value = decode(call.params.bytes("xattr.value").unwrap_or_default())?;
    let flags = call.params.text("flag").unwrap_or_default().to_uppercase();
    let (mut create, mut replace) = (false, false);
    for flag in flags
        .split(',')
        .map(str::trim)
        .filter(|flag| !flag.is_empty())
    {
        match flag {
            "CREATE" => create = true,
            "REPLACE" => replace = true,
            other => return Err(Refusal::parameter("flag", format!("no flag {other}"))),
        }
    }
    let mode = match (create, replace) {
        (true, false) => XattrMode::Create,
        (false, true) => XattrMode::Replace,
        (true, true) | (false, false) => XattrMode::Set,
    };
    match call
        .fs
        .set_xattr(call.place(), name, value, mode, true)
        .await
    {
        Ok(()) => Ok(empty()),
        Err(error) if error.code() == ErrorCode::AlreadyExists => {
            let name = String::from_utf8_lossy(name);
            let message =
                format!("XAttr: {name} already exists. The REPLACE flag must be specified.");
            Err(Refusal::new(Exception::Io, message))
        }
        Err(error) if error.code() == ErrorCode::NoAttribute => {
            let name = String::from_utf8_lossy(name);
            let message =
                format!("XAttr: {name} does not exist. The CREATE flag must be specified.");
            Err(Refusal::new(Exception::Io, message))
        }
        Err(error) => Err(call.fail(error)),
    }
}

pub(super) async fn remove(call: &Call) -> Answer {
    let name = call.params.required("xattr.name")?;
    match call.fs.remove_xattr(call.place(), name, true).await {
        Ok(()) => Ok(empty()),
        Err(error) if error.code() == ErrorCode::NoAttribute => {
            let message = "No matching attributes found for remove operation";
            Err(Refusal::new(Exception::Io, message))
        }
        Err(error) => Err(call.fail(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Encoding, decode, unbase64};

    #[test]
    fn values_are_read_as_they_are_written() {
        for value in [b"".as_slice(), b"a", b"ab", b"abc", b"\x00\xff\x10\x80"] {
            for encoding in [Encoding::Hex, Encoding::Base64] {
                let text = encoding.encode(value);
                assert_eq!(decode(text.as_bytes()).unwrap(), value, "{text}");
            }
        }
        assert_eq!(Encoding::Text.encode(b"a b"), "\"a b\"");
        assert_eq!(decode(b"\"a b\"").unwrap(), b"a b");
        assert_eq!(decode(b"plain").unwrap(), b"plain");
        assert_eq!(Encoding::Base64.encode(b"hello"), "0saGVsbG8=");
        assert_eq!(Encoding::Hex.encode(b"\x01\xab"), "0x01ab");
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for bad in [b"0x1".as_slice(), b"0xzz", b"0sA", b"0s!!!!", b"0s===="] {
            assert!(decode(bad).is_err(), "{}", bad.escape_ascii());
        }
        assert_eq!(unbase64(b"").unwrap(), b"");
    }
}
