//! Plain values out of a pickle.
//!
//! A pickle is a program for a stack machine, and Python's runs whatever the file names. This one knows
//! the opcodes of protocol 2; a class or function that it meets is kept as a name and never looked up, let
//! alone called. What such a call would have made is [`Value::Opaque`], but for ordered dicts and tensors.

use std::collections::HashMap;

use anyhow::{Context, bail, ensure};

/// What a pickle may hold.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// A list or a tuple.
    List(Vec<Value>),
    /// In the order of the file.
    Dict(Vec<(Value, Value)>),
    Tensor(TensorRef),
    /// The result of a call that is not made, or a class: its name.
    Opaque(String),
}

/// A tensor as the pickle describes it: a view of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorRef {
    pub(super) storage: String,
    pub(super) kind: String,
    pub(super) offset: usize,
    pub shape: Vec<usize>,
    pub(super) stride: Vec<usize>,
}

/// How many values a tree may have, and how deep it may be: a small pickle can mean an endless one.
pub(super) const MAX_VALUES: usize = 10_000_000;
const MAX_DEPTH: usize = 64;

impl Value {
    /// The value of a key of a dict.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let Value::Dict(items) = self else { return None };
        items.iter().find(|(name, _)| name.text() == Some(key)).map(|(_, value)| value)
    }

    pub fn text(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    pub fn items(&self) -> Option<&[Value]> {
        if let Value::List(items) = self { Some(items) } else { None }
    }

    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Int(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }
}

/// The place of a value on the machine's heap: lists and dicts may be changed after they were stored.
type Id = usize;

#[derive(Debug, Clone)]
enum Node {
    Plain(Value),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(String),
    Call(Id, Id),
    Persistent(Id),
}

#[derive(Default)]
struct Machine {
    heap: Vec<Node>,
    stack: Vec<Id>,
    /// Where the stack stood at each mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

/// Runs a pickle and gives what it leaves on the stack.
pub fn parse(bytes: &[u8]) -> anyhow::Result<Value> {
    let mut code = Code { bytes, at: 0 };
    let mut machine = Machine::default();
    while machine.step(&mut code)? {}
    let root = machine.pop()?;
    let mut left = MAX_VALUES;
    machine.tree(root, 0, &mut left)
}

impl Machine {
    /// One opcode; false at the end.
    fn step(&mut self, code: &mut Code<'_>) -> anyhow::Result<bool> {
        let at = code.at;
        match code.byte()? {
            0x80 => ensure!(code.byte()? <= 2, "it is of a protocol beyond 2"),
            b'.' => return Ok(false),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'N' => self.push(Node::Plain(Value::None)),
            0x88 => self.push(Node::Plain(Value::Bool(true))),
            0x89 => self.push(Node::Plain(Value::Bool(false))),
            b'K' => self.int(i64::from(code.byte()?)),
            b'M' => self.int(i64::from(u16::from_le_bytes(code.array()?))),
            b'J' => self.int(i64::from(i32::from_le_bytes(code.array()?))),
            0x8a => {
                let n = usize::from(code.byte()?);
                let digits = code.take(n)?;
                ensure!(n <= 8, "a number of {n} bytes is too large");
                let mut wide =
                    [if digits.last().is_some_and(|it| 0x80 <= *it) { 0xff } else { 0 }; 8];
                wide[..n].copy_from_slice(digits);
                self.int(i64::from_le_bytes(wide));
            }
            b'G' => self.push(Node::Plain(Value::Float(f64::from_be_bytes(code.array()?)))),
            b'X' => {
                let n = u32::from_le_bytes(code.array()?) as usize;
                let text = std::str::from_utf8(code.take(n)?).context("a text is not UTF-8")?;
                self.push(Node::Plain(Value::Text(text.to_owned())));
            }
            b')' => self.push(Node::List(vec![])),
            b']' => self.push(Node::List(vec![])),
            b'}' => self.push(Node::Dict(vec![])),
            b't' => {
                let items = self.pop_mark()?;
                self.push(Node::List(items));
            }
            n @ 0x85..=0x87 => {
                let first = self
                    .stack
                    .len()
                    .checked_sub(usize::from(n) - 0x84)
                    .context("the stack is empty")?;
                let items = self.stack.split_off(first);
                self.push(Node::List(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.extend(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set(&items)?;
            }
            b'd' => {
                let items = self.pop_mark()?;
                self.push(Node::Dict(vec![]));
                self.set(&items)?;
            }
            b'l' => {
                let items = self.pop_mark()?;
                self.push(Node::List(items));
            }
            b'c' => {
                let (module, name) = (code.line()?, code.line()?);
                self.push(Node::Global(format!("{module}.{name}")));
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let is_dict = matches!(&self.heap[callable], Node::Global(name) if name == "collections.OrderedDict");
                self.push(if is_dict {
                    Node::Dict(vec![])
                } else {
                    Node::Call(callable, arguments)
                });
            }
            // The state of an object is attributes, which no plain value has.
            b'b' => drop(self.pop()?),
            b'q' => self.remember(u32::from(code.byte()?))?,
            b'r' => self.remember(u32::from_le_bytes(code.array()?))?,
            b'h' => self.recall(u32::from(code.byte()?))?,
            b'j' => self.recall(u32::from_le_bytes(code.array()?))?,
            other => bail!("opcode {other:#04x} at byte {at} is not known"),
        }
        Ok(true)
    }

    fn push(&mut self, node: Node) {
        self.heap.push(node);
        self.stack.push(self.heap.len() - 1);
    }

    fn int(&mut self, number: i64) {
        self.push(Node::Plain(Value::Int(number)));
    }

    fn pop(&mut self) -> anyhow::Result<Id> {
        self.stack.pop().context("the stack is empty")
    }

    fn pop_mark(&mut self) -> anyhow::Result<Vec<Id>> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len());
        Ok(self.stack.split_off(mark.context("there is no mark")?))
    }

    fn top(&mut self) -> anyhow::Result<&mut Node> {
        let id = *self.stack.last().context("the stack is empty")?;
        Ok(&mut self.heap[id])
    }

    fn extend(&mut self, items: Vec<Id>) -> anyhow::Result<()> {
        match self.top()? {
            Node::List(list) => list.extend(items),
            Node::Call(..) => {} // A list of a class of its own.
            _ => bail!("items are added to what is no list"),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> anyhow::Result<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        ensure!(rest.is_empty(), "a key has no value");
        match self.top()? {
            Node::Dict(dict) => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            Node::Call(..) => {} // A dict of a class of its own.
            _ => bail!("keys are set in what is no dict"),
        }
        Ok(())
    }

    fn remember(&mut self, place: u32) -> anyhow::Result<()> {
        let id = *self.stack.last().context("the stack is empty")?;
        self.memo.insert(place, id);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> anyhow::Result<()> {
        let id = self.memo.get(&place).context("something is recalled that was not stored")?;
        self.stack.push(*id);
        Ok(())
    }

    fn tree(&self, id: Id, depth: usize, left: &mut usize) -> anyhow::Result<Value> {
        ensure!(depth < MAX_DEPTH, "its values are nested more than {MAX_DEPTH} deep");
        *left =
            left.checked_sub(1).with_context(|| format!("it has more than {MAX_VALUES} values"))?;
        let mut tree = |id: Id| self.tree(id, depth + 1, left);
        Ok(match &self.heap[id] {
            Node::Plain(value) => value.clone(),
            Node::List(items) => {
                Value::List(items.iter().map(|&id| tree(id)).collect::<anyhow::Result<_>>()?)
            }
            Node::Dict(items) => Value::Dict(
                items
                    .iter()
                    .map(|&(key, value)| Ok((tree(key)?, tree(value)?)))
                    .collect::<anyhow::Result<_>>()?,
            ),
            Node::Global(name) => Value::Opaque(name.clone()),
            Node::Persistent(id) => tree(*id)?,
            Node::Call(callable, arguments) => match &self.heap[*callable] {
                Node::Global(name) if name == "torch._utils._rebuild_tensor_v2" => Value::Tensor(
                    tensor_ref(&tree(*arguments)?).context("a tensor is described wrongly")?,
                ),
                Node::Global(name) if name == "torch._utils._rebuild_parameter" => {
                    match tree(*arguments)? {
                        Value::List(mut items) if !items.is_empty() => items.swap_remove(0),
                        _ => bail!("a parameter is described wrongly"),
                    }
                }
                Node::Global(name) => Value::Opaque(name.clone()),
                _ => Value::Opaque("a call".into()),
            },
        })
    }
}

/// Of `(("storage", kind, key, device, numel), offset, size, stride, …)`.
fn tensor_ref(arguments: &Value) -> Option<TensorRef> {
    let [storage, offset, shape, stride, ..] = arguments.items()? else { return None };
    let [_, Value::Opaque(kind), key, ..] = storage.items()? else { return None };
    let size = |value: &Value| match value {
        Value::Int(number) => usize::try_from(*number).ok(),
        _ => None,
    };
    let sizes = |value: &Value| value.items()?.iter().map(size).collect::<Option<Vec<usize>>>();
    let (shape, stride) = (sizes(shape)?, sizes(stride)?);
    let kind = kind.strip_prefix("torch.")?.to_owned();
    (shape.len() == stride.len()).then_some(TensorRef {
        storage: key.text()?.to_owned(),
        kind,
        offset: size(offset)?,
        shape,
        stride,
    })
}

/// The bytes of a pickle, read from front to back.
struct Code<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Code<'a> {
    fn take(&mut self, n: usize) -> anyhow::Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..n).with_context(|| format!("it ends within {n} bytes of data"))?;
        self.at += n;
        Ok(taken)
    }

    fn byte(&mut self) -> anyhow::Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> anyhow::Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    fn line(&mut self) -> anyhow::Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let n = rest.iter().position(|&it| it == b'\n').context("a name has no end")?;
        let line = std::str::from_utf8(self.take(n + 1)?).context("a name is not UTF-8")?;
        Ok(line.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    /// `pickle.dumps({'a': [1, -2, 300, 70000, 2**40, .5, None, True], 'b': ('x', {})}, 2)`.
    #[test]
    fn plain_values_are_read() {
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00\
            \x8a\x06\x00\x00\x00\x00\x00\x01G?\xe0\x00\x00\x00\x00\x00\x00N\x88eX\x01\x00\x00\x00bq\x03\
            X\x01\x00\x00\x00xq\x04}q\x05\x86q\x06u.";
        let numbers = [1, -2, 300, 70_000, 1 << 40].map(Value::Int);
        let list = [&numbers[..], &[Value::Float(0.5), Value::None, Value::Bool(true)]].concat();
        let value = parse(bytes).unwrap();
        assert_eq!(value.get("a"), Some(&Value::List(list)));
        assert_eq!(value.get("b"), Some(&Value::List(vec![text("x"), Value::Dict(vec![])])));
    }

    /// A class that would run a command when Python read it.
    #[test]
    fn nothing_is_called() {
        let bytes = b"\x80\x02cos\nsystem\nX\x07\x00\x00\x00rm -rf \x85R.";
        assert_eq!(parse(bytes).unwrap(), Value::Opaque("os.system".into()));
        // A dict of an unknown class, filled and given attributes.
        let bytes = b"\x80\x02cthinc.config\nConfig\n)\x81(X\x01\x00\x00\x00aK\x01u}X\x01\x00\x00\x00bK\x02sb.";
        assert_eq!(parse(bytes).unwrap(), Value::Opaque("thinc.config.Config".into()));
    }

    /// A list may be put into another before it is filled.
    #[test]
    fn what_is_shared_is_seen_as_it_became() {
        let value =
            parse(b"\x80\x02]q\x00]q\x01h\x00ah\x01K\x07a0h\x00(h\x01K\x05el.").unwrap_err();
        assert!(value.to_string().contains("mark"), "{value}");
        let value = parse(b"\x80\x02]q\x00]q\x01K\x07ah\x01h\x01\x86.").unwrap();
        let seven = Value::List(vec![Value::Int(7)]);
        assert_eq!(value, Value::List(vec![seven.clone(), seven]));
    }

    #[test]
    fn damaged_and_hostile_pickles_are_refused() {
        let check = |bytes: &[u8], wanted: &str| {
            let message = format!("{:#}", parse(bytes).unwrap_err());
            assert!(message.contains(wanted), "{message}");
        };
        check(b"", "it ends within 1 bytes");
        check(b"\x80\x02X\xff\xff\xff\xffab", "it ends within 4294967295 bytes");
        check(b"\x80\x02.", "the stack is empty");
        check(b"\x80\x02t.", "no mark");
        check(b"\x80\x02i", "opcode 0x69 at byte 2");
        check(b"\x80\x02\x8a\x09123456789.", "a number of 9 bytes");
        check(b"\x80\x02h\x01.", "not stored");
        check(b"\x80\x02K\x01K\x01a.", "no list");
        // A list that holds itself, and one that doubles fifty times.
        check(b"\x80\x02]q\x00h\x00a.", "nested more than");
        let mut laughs = b"\x80\x02)q\x00".to_vec();
        for _ in 0..50 {
            laughs.extend(b"h\x00h\x00\x86q\x00");
        }
        laughs.push(b'.');
        check(&laughs, "more than 10000000 values");
    }
}
