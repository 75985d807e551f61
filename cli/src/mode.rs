//! Permission bits as `chmod` takes them: octal, or clauses such as `u=rwX,go-w`.

use anyhow::bail;

/// A change of permission bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModeChange {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Absolute(u32),
    Clause {
        who: u32,
        explicit: bool,
        operator: Operator,
        what: What,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct What {
    /// rwx for anyone, as 0 to 7.
    bits: u32,
    /// `X`: execute only for directories and what is executable already.
    execute_if_any: bool,
    set_id: bool,
    sticky: bool,
    /// Copy from the class at this shift.
    copy_from: Option<u32>,
}

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHER: u32 = 0o1007;

impl ModeChange {
    /// Reads a change. Fails with a sentence that names what is wrong and shows what is right.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o7777 => Ok(Self {
                    steps: vec![Step::Absolute(mode)],
                }),
                _ => bail!("mode `{text}`: octal digits up to 7777, or clauses such as u=rwX,go-w"),
            };
        }
        let mut steps = Vec::new();
        for clause in text.split(',') {
            match parse_clause(clause) {
                Some(mut parsed) => steps.append(&mut parsed),
                None => {
                    bail!("mode `{text}`: octal digits up to 7777, or clauses such as u=rwX,go-w")
                }
            }
        }
        Ok(Self { steps })
    }

    /// The new bits of something that has `mode` now.
    pub(crate) fn apply(&self, mode: u32, directory: bool, umask: u32) -> u32 {
        self.steps
            .iter()
            .fold(mode & 0o7777, |mode, step| match *step {
                Step::Absolute(new) => new,
                Step::Clause {
                    who,
                    explicit,
                    operator,
                    what,
                } => {
                    let mut bits = what.spread(mode, directory) & who;
                    if !explicit {
                        bits &= !umask;
                    }
                    match operator {
                        Operator::Add => mode | bits,
                        Operator::Remove => mode & !bits,
                        // Set-id bits of a directory stay unless they are named, as GNU chmod has it.
                        Operator::Set if directory => (mode & !(who & 0o1777)) | bits,
                        Operator::Set => (mode & !who) | bits,
                    }
                }
            })
    }
}

impl What {
    /// These bits for all classes.
    fn spread(self, mode: u32, directory: bool) -> u32 {
        let mut bits = self.bits;
        if let Some(shift) = self.copy_from {
            bits |= (mode >> shift) & 7;
        }
        if self.execute_if_any && (directory || mode & 0o111 != 0) {
            bits |= 1;
        }
        let mut all = bits << 6 | bits << 3 | bits;
        if self.set_id {
            all |= 0o6000;
        }
        if self.sticky {
            all |= 0o1000;
        }
        all
    }
}

/// `[ugoa]*([-+=]([rwxXst]*|[ugo]))+`.
fn parse_clause(clause: &str) -> Option<Vec<Step>> {
    let operators = ['+', '-', '='];
    let start = clause.find(operators)?;
    let (mut who, explicit) = (0, start > 0);
    for class in clause[..start].chars() {
        who |= match class {
            'u' => USER,
            'g' => GROUP,
            'o' => OTHER,
            'a' => 0o7777,
            _ => return None,
        };
    }
    if !explicit {
        who = 0o7777;
    }
    let mut steps = Vec::new();
    let mut rest = &clause[start..];
    while let Some(sign) = rest.chars().next() {
        let operator = match sign {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            _ => Operator::Set,
        };
        let end = rest[1..].find(operators).map_or(rest.len(), |end| end + 1);
        let what = parse_what(&rest[1..end])?;
        // The sticky bit belongs to nobody's class.
        let who = if what.sticky { who | 0o1000 } else { who };
        steps.push(Step::Clause {
            who,
            explicit,
            operator,
            what,
        });
        rest = &rest[end..];
    }
    Some(steps)
}

fn parse_what(text: &str) -> Option<What> {
    let mut what = What::default();
    let copied = |shift| {
        Some(What {
            copy_from: Some(shift),
            ..What::default()
        })
    };
    match text {
        "u" => return copied(6),
        "g" => return copied(3),
        "o" => return copied(0),
        _ => {}
    }
    for letter in text.chars() {
        match letter {
            'r' => what.bits |= 4,
            'w' => what.bits |= 2,
            'x' => what.bits |= 1,
            'X' => what.execute_if_any = true,
            's' => what.set_id = true,
            't' => what.sticky = true,
            _ => return None,
        }
    }
    Some(what)
}

#[cfg(test)]
mod tests {
    use super::ModeChange;

    fn changed(change: &str, mode: u32, directory: bool) -> u32 {
        ModeChange::parse(change)
            .unwrap()
            .apply(mode, directory, 0o022)
    }

    #[test]
    fn modes_change_as_chmod_changes_them() {
        for (change, before, after) in [
            ("755", 0o644, 0o755),
            ("0", 0o7777, 0),
            ("4755", 0o644, 0o4755),
            ("u+x", 0o644, 0o744),
            ("+x", 0o644, 0o755),
            ("+w", 0o444, 0o644),
            ("a+w", 0o444, 0o666),
            ("go-rwx", 0o755, 0o700),
            ("u=rw,go=r", 0o777, 0o644),
            ("g=u", 0o740, 0o770),
            ("o=g-w", 0o770, 0o775),
            ("u+s", 0o755, 0o4755),
            ("g+s", 0o755, 0o2755),
            ("+t", 0o777, 0o1777),
            ("o+t", 0o777, 0o1777),
            ("u=rwx", 0o4755, 0o755),
            ("=", 0o777, 0),
            ("a=rX", 0o644, 0o444),
            ("a=rX", 0o744, 0o555),
            ("ug+rw,o-r", 0o404, 0o660),
        ] {
            assert_eq!(
                changed(change, before, false),
                after,
                "{change} on {before:o}"
            );
        }
        assert_eq!(changed("a+X", 0o644, true), 0o755);
        assert_eq!(changed("u=rwx", 0o2755, true), 0o2755);
        assert_eq!(changed("o=g-w", 0o770, false), 0o775);
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for bad in ["", "8", "77777", "u", "u+q", "x+r", "u+r,", "+ug", "rwx"] {
            let error = ModeChange::parse(bad).unwrap_err().to_string();
            assert!(error.contains("u=rwX,go-w"), "{bad}: {error}");
        }
    }
}
