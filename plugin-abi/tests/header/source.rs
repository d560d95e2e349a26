//! Reads the ABI's Rust source into a list for the C header: tables, numbers, constants, and their
//! documentation. Offsets, sizes and the hash come from the compiled crate instead.

use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Expr, Fields, Ident, Item, Lit, LitInt, PointerMutability, ReturnType, Token, Type};

/// An item of the header, in the order of the source.
pub enum Entry {
    /// A `repr(C)` struct.
    Table { name: String, doc: String, fields: Vec<Field> },
    /// A struct around one number.
    Alias { name: String, doc: String, of: String },
    /// Numbers with names.
    Numbers { name: String, doc: String, repr: String, values: Vec<Value> },
    /// A constant.
    Constant { name: String, doc: String, repr: String, value: String },
    /// The type of a function.
    Function { name: String, doc: String, declarator: String },
}

/// A field of a table.
pub struct Field {
    pub name: String,
    pub doc: String,
    /// The declaration in C, without the semicolon.
    pub declaration: String,
}

/// A number with a name.
pub struct Value {
    pub name: String,
    pub doc: String,
    pub number: u64,
}

/// The items of a source file that C needs.
pub fn entries(source: &str) -> Vec<Entry> {
    let file = syn::parse_file(source).expect("our source is Rust");
    file.items
        .into_iter()
        .filter(|item| !matches!(item, Item::Const(item) if pretended(&item.attrs)))
        .filter_map(entry)
        .collect()
}

fn entry(item: Item) -> Option<Entry> {
    match item {
        Item::Macro(item) if item.mac.path.is_ident("numbers") => {
            Some(item.mac.parse_body::<NumberList>().expect("the form that numbers! takes").0)
        }
        Item::Const(item) => {
            let value = match *item.expr {
                Expr::Lit(literal) => match literal.lit {
                    Lit::Int(number) => number.base10_digits().to_owned(),
                    _ => return None,
                },
                Expr::Path(_) => "UINT32_MAX".to_owned(),
                _ => return None,
            };
            let (name, doc, repr) = (item.ident.to_string(), doc(&item.attrs), type_name(&item.ty));
            Some(Entry::Constant { name, doc, repr, value })
        }
        Item::Struct(item) => {
            let (name, doc_text) = (item.ident.to_string(), doc(&item.attrs));
            match item.fields {
                Fields::Named(fields) => {
                    let fields = fields.named.iter().filter(|field| !pretended(&field.attrs)).map(|field| {
                        let name = field.ident.as_ref().expect("a named field").to_string();
                        let declaration = declaration(&field.ty, &name);
                        Field { name, doc: doc(&field.attrs), declaration }
                    });
                    Some(Entry::Table { name, doc: doc_text, fields: fields.collect() })
                }
                Fields::Unnamed(fields) => {
                    let of = type_name(&fields.unnamed.first().expect("a struct around one number").ty);
                    Some(Entry::Alias { name, doc: doc_text, of })
                }
                Fields::Unit => None,
            }
        }
        Item::Type(item) => {
            let name = item.ident.to_string();
            let declarator = declaration(&item.ty, &snake(&name));
            Some(Entry::Function { name, doc: doc(&item.attrs), declarator })
        }
        _ => None,
    }
}

/// Whether the item exists only in a test of growth.
fn pretended(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string().starts_with("feature"),
        _ => false,
    })
}

/// `ErrorText` as `grapnel_error_text`.
pub fn snake(name: &str) -> String {
    let mut text = "grapnel".to_owned();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// A variable, field or argument of this type, as C declares it.
fn declaration(ty: &Type, name: &str) -> String {
    match ty {
        Type::FnPtr(function) => {
            let arguments: Vec<String> = function
                .inputs
                .iter()
                .map(|argument| {
                    let (name, _) = argument.name.as_ref().expect("arguments of the ABI have names");
                    declaration(&argument.ty, &name.to_string())
                })
                .collect();
            let arguments = if arguments.is_empty() { "void".to_owned() } else { arguments.join(", ") };
            let output = match &function.output {
                ReturnType::Type(_, ty) => type_name(ty),
                _ => "void".to_owned(),
            };
            format!("{output} (*{name})({arguments})")
        }
        Type::Path(path) if path.path.segments[0].ident == "Option" => {
            let syn::PathArguments::AngleBracketed(inner) = &path.path.segments[0].arguments else {
                panic!("an Option of what");
            };
            let Some(syn::GenericArgument::Type(inner)) = inner.args.first() else {
                panic!("an Option of what");
            };
            declaration(inner, name)
        }
        _ => {
            let ty = type_name(ty);
            if ty.ends_with('*') { format!("{ty}{name}") } else { format!("{ty} {name}") }
        }
    }
}

/// A type that is not a function's.
fn type_name(ty: &Type) -> String {
    match ty {
        Type::Ptr(pointer) => {
            let inner = type_name(&pointer.elem);
            let star = if inner.ends_with('*') { "*" } else { " *" };
            match pointer.mutability {
                PointerMutability::Const(_) => format!("const {inner}{star}"),
                PointerMutability::Mut(_) => format!("{inner}{star}"),
            }
        }
        Type::Path(path) => {
            let name = path.path.segments.last().expect("a path has an end").ident.to_string();
            match name.as_str() {
                "u8" => "uint8_t".to_owned(),
                "u16" => "uint16_t".to_owned(),
                "u32" => "uint32_t".to_owned(),
                "u64" => "uint64_t".to_owned(),
                "i32" => "int32_t".to_owned(),
                "i64" => "int64_t".to_owned(),
                "usize" => "size_t".to_owned(),
                "c_void" => "void".to_owned(),
                table => snake(table),
            }
        }
        _ => panic!("the ABI has a type that the header cannot say"),
    }
}

/// The documentation comment as one text.
fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The contents of `numbers! { … }`.
struct NumberList(Entry);

impl Parse for NumberList {
    fn parse(input: ParseStream<'_>) -> syn::Result<NumberList> {
        let doc_text = doc(&input.call(Attribute::parse_outer)?);
        let name: Ident = input.parse()?;
        input.parse::<Token![:]>()?;
        let repr: Type = input.parse()?;
        let body;
        syn::braced!(body in input);
        let mut values = Vec::new();
        while !body.is_empty() {
            let doc = doc(&body.call(Attribute::parse_outer)?);
            let name: Ident = body.parse()?;
            body.parse::<Token![=]>()?;
            let number: LitInt = body.parse()?;
            body.parse::<Token![;]>()?;
            values.push(Value { name: name.to_string(), doc, number: number.base10_parse()? });
        }
        let (name, repr) = (name.to_string(), type_name(&repr));
        Ok(NumberList(Entry::Numbers { name, doc: doc_text, repr, values }))
    }
}
