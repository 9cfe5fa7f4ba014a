//! Text in, HTML out: whatever is not [`Html`] already is escaped on its way into a [`markup!`].

use std::ops::AddAssign;

/// HTML. Made by [`markup!`].
#[derive(Debug, Clone, Default)]
pub(super) struct Html(pub(super) String);

impl Html {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl AddAssign for Html {
    fn add_assign(&mut self, other: Html) {
        self.0.push_str(&other.0);
    }
}

impl FromIterator<Html> for Html {
    fn from_iter<I: IntoIterator<Item = Html>>(parts: I) -> Html {
        Html(parts.into_iter().map(|it| it.0).collect())
    }
}

/// What may be put into markup.
pub(super) trait Shown {
    fn shown(&self) -> String;
}

impl Shown for Html {
    fn shown(&self) -> String {
        self.0.clone()
    }
}

impl Shown for str {
    fn shown(&self) -> String {
        let mut text = String::with_capacity(self.len());
        for c in self.chars() {
            match c {
                '&' => text.push_str("&amp;"),
                '<' => text.push_str("&lt;"),
                '>' => text.push_str("&gt;"),
                '"' => text.push_str("&quot;"),
                '\'' => text.push_str("&#39;"),
                c => text.push(c),
            }
        }
        text
    }
}

impl Shown for String {
    fn shown(&self) -> String {
        self.as_str().shown()
    }
}

/// With commas between thousands.
impl Shown for usize {
    fn shown(&self) -> String {
        let digits = self.to_string();
        let mut text = String::new();
        for (i, digit) in digits.chars().enumerate() {
            if 0 < i && (digits.len() - i).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        text
    }
}

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> String {
        self.as_ref().map(T::shown).unwrap_or_default()
    }
}

impl<T: Shown + ?Sized> Shown for &T {
    fn shown(&self) -> String {
        (**self).shown()
    }
}

/// `format!` for [`Html`].
macro_rules! markup {
    ($form:literal $(, $argument:expr)* $(,)?) => {
        $crate::report::html::markup::Html(
            format!($form $(, $crate::report::html::markup::Shown::shown(&$argument))*)
        )
    };
}

/// The cells of a row of a table.
macro_rules! cells {
    ($($cell:expr),* $(,)?) => { vec![$($crate::report::html::markup::markup!("{}", $cell)),*] };
}

pub(super) use {cells, markup};

#[cfg(test)]
mod tests {

    #[test]
    fn markup_escapes_what_is_text() {
        let name = "<b>\"'&";
        assert_eq!(markup!("<i>{}</i>", name).0, "<i>&lt;b&gt;&quot;&#39;&amp;</i>");
        let inner = markup!("<b>{}</b>", 1_234_567);
        assert_eq!(markup!("<i>{}</i>", inner).0, "<i><b>1,234,567</b></i>");
    }
}
