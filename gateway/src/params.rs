//! The parameters of a request: the query string, decoded as forms are, names in any case.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use crate::webhdfs::Refusal;

/// More are refused: no client sends so many.
const PARAMETERS_MAX: usize = 1024;

/// Names in lower case, values as bytes.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, Vec<u8>)>);

impl Params {
    pub(crate) fn parse(query: &str) -> Result<Self, Refusal> {
        let mut all = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            if all.len() == PARAMETERS_MAX {
                return Err(Refusal::parameter(
                    "op",
                    format!("more than {PARAMETERS_MAX} parameters"),
                ));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = String::from_utf8_lossy(&decoded(name)).to_lowercase();
            all.push((name, decoded(value)));
        }
        Ok(Self(all))
    }

    /// The first value of a parameter; an empty one is as good as none.
    pub(crate) fn bytes(&self, name: &str) -> Option<&[u8]> {
        let found = self.0.iter().find(|(found, _)| found == name);
        found
            .map(|(_, value)| value.as_slice())
            .filter(|value| !value.is_empty())
    }

    /// All values of a parameter that may be repeated.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let same = self.0.iter().filter(move |(found, _)| found == name);
        same.map(|(_, value)| value.as_slice())
            .filter(|value| !value.is_empty())
    }

    pub(crate) fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        self.bytes(name).map(String::from_utf8_lossy)
    }

    /// Whether it is given at all, empty or not.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(found, _)| found == name)
    }

    pub(crate) fn required(&self, name: &str) -> Result<&[u8], Refusal> {
        let missing =
            || Refusal::parameter(name, format!("Required param {name} for op is missing"));
        self.bytes(name).ok_or_else(missing)
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.text(name) {
            None => Ok(None),
            Some(text) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Some(text) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
            Some(text) => Err(Refusal::parameter(
                name,
                format!("Failed to parse \"{text}\" to Boolean."),
            )),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Refusal::parameter(
                name,
                format!("\"{text}\" is not a whole number of zero or more"),
            )),
        }
    }

    /// `-1` means that the parameter is not given.
    pub(crate) fn number_unless_minus_one(&self, name: &str) -> Result<Option<u64>, Refusal> {
        match self.bytes(name) {
            Some(b"-1") => Ok(None),
            _ => self.number(name),
        }
    }

    /// Permission bits, `0` to `1777`.
    pub(crate) fn permission(&self, name: &str) -> Result<Option<u32>, Refusal> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o1777 && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(Some(mode))
            }
            _ => Err(Refusal::parameter(
                name,
                format!("\"{text}\" is not an octal number from 0 to 1777"),
            )),
        }
    }
}

/// `%41` is `A`, and `+` is a space.
fn decoded(text: &str) -> Vec<u8> {
    let spaced = text.replace('+', " ");
    percent_decode(spaced.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::Params;

    fn params(query: &str) -> Params {
        Params::parse(query).unwrap()
    }

    #[test]
    fn names_have_any_case_and_values_are_decoded() {
        let params =
            params("OP=Open&User.Name=ada&destination=/a%20b+c%2B%FF&x&xattr.name=a&xattr.name=b");
        assert_eq!(params.bytes("op"), Some(b"Open".as_slice()));
        assert_eq!(params.text("user.name").unwrap(), "ada");
        assert_eq!(params.bytes("destination"), Some(b"/a b c+\xff".as_slice()));
        assert!(params.has("x") && params.bytes("x").is_none());
        assert_eq!(params.all("xattr.name").count(), 2);
    }

    #[test]
    fn what_is_no_value_is_named() {
        let params = params("a=x&b=1778&c=777&d=TRUE&e=-1&f=+7&g=01777");
        for message in [
            params.number("a").unwrap_err().message,
            params.flag("a").unwrap_err().message,
            params.permission("a").unwrap_err().message,
        ] {
            assert!(
                message.starts_with("Invalid value for webhdfs parameter \"a\""),
                "{message}"
            );
        }
        assert!(params.permission("b").is_err());
        assert!(params.permission("f").is_err());
        assert_eq!(params.permission("c").unwrap(), Some(0o777));
        assert_eq!(params.permission("g").unwrap(), Some(0o1777));
        assert_eq!(params.flag("d").unwrap(), Some(true));
        assert_eq!(params.number_unless_minus_one("e").unwrap(), None);
        assert!(params.number("e").is_err());
        assert!(params.required("none").is_err());
    }
}
