//! Serde's view of the tree: strict types, and each problem tied to the value it is about.

use super::problem::{Kind, Problem};
use super::read::Absent;
use super::tree::{Entry, Node, Scalar, Span, Value, is_secret};
use crate::base::fault::KeyPath;
use crate::base::units::ONE_OR_MANY;
use serde::de::value::{StrDeserializer, StringDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;

/// A secret in a file of its own.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// What all readers of one document share.
pub struct Scope<'a> {
    folder: &'a Path,
    pub absent: RefCell<Absent>,
    pub secrets: RefCell<BTreeSet<Span>>,
}

impl<'a> Scope<'a> {
    pub fn new(folder: &'a Path) -> Self {
        Self {
            folder,
            absent: RefCell::default(),
            secrets: RefCell::default(),
        }
    }
}

/// The keys from here back to the root.
pub struct Trail<'a> {
    parent: Option<&'a Trail<'a>>,
    key: Cow<'a, str>,
}

impl<'a> Trail<'a> {
    pub fn root() -> Self {
        Self {
            parent: None,
            key: Cow::Borrowed(""),
        }
    }

    fn child(&'a self, key: impl Into<Cow<'a, str>>) -> Self {
        Self {
            parent: Some(self),
            key: key.into(),
        }
    }

    fn path(&self) -> KeyPath {
        let mut keys = Vec::new();
        let mut here = self;
        while let Some(parent) = here.parent {
            keys.push(here.key.clone().into_owned());
            here = parent;
        }
        keys.reverse();
        KeyPath(keys)
    }
}

/// Reads one value.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    node: &'a Node,
    trail: &'a Trail<'a>,
    scope: &'a Scope<'a>,
}

/// What a plain scalar may be, beside text (YAML 1.2 core schema, booleans and integers in one spelling only).
enum Plain {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text,
}

impl Plain {
    fn of(scalar: &Scalar) -> Self {
        let text = scalar.text.as_str();
        if !scalar.plain {
            return Self::Text;
        }
        match text {
            // A variable may hold a word like this; it does not mean "absent".
            "null" | "~" if scalar.used.is_empty() => return Self::Null,
            "true" => return Self::Bool(true),
            "false" => return Self::Bool(false),
            _ => {}
        }
        let digits = text.trim_start_matches(['-', '+']);
        let octal = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
        let numeric = text.bytes().all(|b| b"0123456789+-.eE".contains(&b));
        if octal || !numeric || !digits.starts_with(|c: char| c.is_ascii_digit()) {
            return Self::Text;
        }
        if let Ok(number) = text.parse() {
            return Self::Unsigned(number);
        }
        if let Ok(number) = text.parse() {
            return Self::Signed(number);
        }
        text.parse().map_or(Self::Text, Self::Float)
    }
}

impl<'a> Reader<'a> {
    pub fn new(node: &'a Node, trail: &'a Trail<'a>, scope: &'a Scope<'a>) -> Self {
        Self { node, trail, scope }
    }

    /// Ties a problem to this value, unless it is tied to one inside already, and prunes what is at fault.
    fn locate<T>(self, result: Result<T, Problem>) -> Result<T, Problem> {
        let Err(Problem(mut detail)) = result else {
            return result;
        };
        if detail.at.is_some() {
            return Err(Problem(detail));
        }
        let path = self.trail.path();
        let mut absent = self.scope.absent.borrow_mut();
        if let Kind::Unknown { key, meant } = &detail.kind
            && let Some(entry) = self.entries().find(|entry| entry.key == *key)
        {
            entry.node.pruned.set(true);
            if let Some(meant) = meant {
                absent.insert(path.key(meant));
                if is_secret(meant) {
                    entry.node.conceal(&mut self.scope.secrets.borrow_mut());
                }
            }
            detail.span = Some(entry.key_span);
            detail.at = Some(path.key(key));
            return Err(Problem(detail));
        }
        if let Kind::Missing(key) = detail.kind
            && absent.contains(&path.key(key))
        {
            detail.kind = Kind::Consequence;
        }
        if let Value::Scalar(scalar) = &self.node.value
            && !scalar.text.is_empty()
            && !self.scope.secrets.borrow().contains(&self.node.span)
            && !detail.what.contains(&scalar.text)
        {
            detail.what = format!("`{}`: {}", scalar.text, detail.what);
        }
        self.node.pruned.set(true);
        absent.insert(path.clone());
        detail.at = Some(path);
        Err(Problem(detail))
    }

    /// The entries of a section that are not pruned.
    fn entries(self) -> impl Iterator<Item = &'a Entry> {
        let entries = match &self.node.value {
            Value::Map(entries) => entries.as_slice(),
            _ => &[],
        };
        entries.iter().filter(|entry| !entry.node.pruned.get())
    }

    fn any<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            _ if self.node.is_empty() => Err(Problem::empty()),
            Value::Scalar(scalar) => match Plain::of(scalar) {
                Plain::Null => visitor.visit_unit(),
                Plain::Bool(value) => visitor.visit_bool(value),
                Plain::Unsigned(value) => visitor.visit_u64(value),
                Plain::Signed(value) => visitor.visit_i64(value),
                Plain::Float(value) => visitor.visit_f64(value),
                Plain::Text => visitor.visit_str(&scalar.text),
            },
            Value::List(_) => visitor.visit_seq(self.items()),
            Value::Map(_) => visitor.visit_map(Section {
                entries: self.entries(),
                value: None,
                reader: self,
            }),
        }
    }

    /// The elements of a list, or this value as the only one.
    fn items(self) -> Items<'a, impl Iterator<Item = (Option<usize>, &'a Node)>> {
        let (one, many) = match &self.node.value {
            Value::List(items) => (None, items.as_slice()),
            _ => (Some((None, self.node)), [].as_slice()),
        };
        let many = many.iter().enumerate();
        let items = many.map(|(index, node)| (Some(index), node));
        let items = one.into_iter().chain(items);
        Items {
            items: items.filter(|(_, node)| !node.pruned.get()),
            reader: self,
        }
    }

    /// Text as it stands in the document: also `8080`, `1.2` and `true`, which need no quotes where text is expected.
    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Scalar(scalar) if !self.node.is_empty() && !is_null(scalar) => {
                visitor.visit_str(&scalar.text)
            }
            _ => self.any(visitor),
        }
    }

    fn secret<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.node.conceal(&mut self.scope.secrets.borrow_mut());
        match &self.node.value {
            Value::Scalar(scalar) if !self.node.is_empty() && !is_null(scalar) => {
                let text = match scalar.text.strip_prefix("file:") {
                    Some(path) => read_secret(&self.scope.folder.join(path))?,
                    None => scalar.text.clone(),
                };
                visitor.visit_newtype_struct(StringDeserializer::<Problem>::new(text))
            }
            _ => Err(self.mismatch("text")),
        }
    }

    /// A derived visitor would also take a list, and its elements for the keys in turn.
    fn section<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Map(_) => self.any(visitor),
            _ => Err(self.mismatch("a section of keys")),
        }
    }

    fn mismatch(self, expected: &str) -> Problem {
        let found = match &self.node.value {
            _ if self.node.is_empty() => return Problem::empty(),
            Value::Scalar(scalar) if is_null(scalar) => "null".to_owned(),
            Value::Scalar(scalar) => format!("`{}`", scalar.text),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a section of keys".to_owned(),
        };
        Problem::value(format!("expected {expected}, found {found}"), "")
    }

    fn variant<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        if let Value::Scalar(scalar) = &self.node.value {
            if self.node.is_empty() {
                return Err(Problem::empty());
            }
            return visitor.visit_enum(Choice {
                name: &scalar.text,
                content: None,
                reader: self,
            });
        }
        let mut entries = self.entries();
        match (entries.next(), entries.next()) {
            (Some(entry), None) => visitor.visit_enum(Choice {
                name: &entry.key,
                content: Some(&entry.node),
                reader: self,
            }),
            (None, _) if self.scope.absent.borrow().any_below(&self.trail.path()) => Err(
                Problem::new(Kind::Consequence, String::new(), String::new()),
            ),
            _ => Err(Problem::value(
                "expected one name, or one key with its value",
                "keep exactly one of them",
            )),
        }
    }
}

fn is_null(scalar: &Scalar) -> bool {
    matches!(Plain::of(scalar), Plain::Null)
}

/// The content of a file that holds nothing but a secret; what is wrong never shows any of it.
fn read_secret(path: &Path) -> Result<String, Problem> {
    let fix = "the file must be there and readable by this user";
    let complain = |cause: &dyn std::fmt::Display| {
        Problem::value(format!("cannot read `{}`: {cause}", path.display()), fix)
    };
    let file = std::fs::File::open(path).map_err(|error| complain(&error))?;
    let mut bytes = Vec::new();
    file.take(SECRET_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| complain(&error))?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(complain(&"it is larger than 64 KiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| complain(&"it is not UTF-8 text"))?;
    Ok(text.trim().to_owned())
}

macro_rules! read_as {
    ($($method:ident => $how:ident),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            let result = self.$how(visitor);
            self.locate(result)
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Problem;

    read_as! {
        deserialize_any => any,
        deserialize_str => text,
        deserialize_string => text,
        deserialize_char => text
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Scalar(scalar) if is_null(scalar) => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let result = match name {
            "Secret" => self.secret(visitor),
            ONE_OR_MANY if self.node.is_empty() => Err(Problem::empty()),
            ONE_OR_MANY => visitor.visit_seq(self.items()),
            _ => visitor.visit_newtype_struct(self),
        };
        self.locate(result)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let result = self.section(visitor);
        self.locate(result)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let result = self.variant(visitor);
        self.locate(result)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 bytes byte_buf unit unit_struct
        seq tuple tuple_struct map identifier
    }
}

struct Items<'a, I> {
    items: I,
    reader: Reader<'a>,
}

impl<'de, 'a, I: Iterator<Item = (Option<usize>, &'a Node)>> SeqAccess<'de> for Items<'a, I> {
    type Error = Problem;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Problem> {
        let Reader { trail, scope, .. } = self.reader;
        match self.items.next() {
            None => Ok(None),
            Some((None, node)) => seed.deserialize(Reader::new(node, trail, scope)).map(Some),
            Some((Some(index), node)) => {
                let trail = trail.child(index.to_string());
                seed.deserialize(Reader::new(node, &trail, scope)).map(Some)
            }
        }
    }
}

struct Section<'a, I> {
    entries: I,
    value: Option<&'a Entry>,
    reader: Reader<'a>,
}

impl<'de, 'a, I: Iterator<Item = &'a Entry>> MapAccess<'de> for Section<'a, I> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Problem> {
        self.value = self.entries.next();
        let Some(entry) = self.value else {
            return Ok(None);
        };
        let key: StrDeserializer<'_, Problem> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        let Some(entry) = self.value.take() else {
            return Err(Problem::custom("a value was asked for before its key"));
        };
        let trail = self.reader.trail.child(entry.key.as_str());
        seed.deserialize(Reader::new(&entry.node, &trail, self.reader.scope))
    }
}

/// One of several variants: by name alone, or as a section of one key.
struct Choice<'a> {
    name: &'a str,
    content: Option<&'a Node>,
    reader: Reader<'a>,
}

impl<'de, 'a> EnumAccess<'de> for Choice<'a> {
    type Error = Problem;
    type Variant = Content<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Content<'a>), Problem> {
        let name: StrDeserializer<'_, Problem> = self.name.into_deserializer();
        let variant = seed.deserialize(name)?;
        Ok((variant, Content { choice: self }))
    }
}

struct Content<'a> {
    choice: Choice<'a>,
}

impl Content<'_> {
    fn read<T>(self, read: impl FnOnce(Reader<'_>) -> Result<T, Problem>) -> Result<T, Problem> {
        let Choice {
            name,
            content,
            reader,
        } = self.choice;
        let Some(node) = content else {
            return Err(Problem::value(
                format!("`{name}` needs a value"),
                format!("write `{name}: …` in a line of its own below, or as `{{ {name}: … }}`"),
            ));
        };
        let trail = reader.trail.child(name);
        read(Reader::new(node, &trail, reader.scope))
    }
}

impl<'de> VariantAccess<'de> for Content<'_> {
    type Error = Problem;

    fn unit_variant(self) -> Result<(), Problem> {
        match self.choice.content {
            None => Ok(()),
            Some(_) => Err(Problem::value(
                format!("`{}` takes no value", self.choice.name),
                format!("write only `{}`", self.choice.name),
            )),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Problem> {
        self.read(|reader| seed.deserialize(reader))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Problem> {
        self.read(|reader| reader.deserialize_any(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        self.read(|reader| reader.deserialize_any(visitor))
    }
}
