//! Text to word pieces, as BERT's uncased models cut it.

use anyhow::anyhow;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{Model, Tokenizer};

/// What stands for a word that no pieces make up.
pub const UNKNOWN: &str = "[UNK]";

/// A vocabulary of word pieces; a piece's place in the list is its number.
pub struct Pieces {
    list: Vec<String>,
    tokenizer: Tokenizer,
}

impl Pieces {
    /// Errs when `[UNK]` is not among them.
    pub fn new(list: Vec<String>) -> anyhow::Result<Pieces> {
        let vocabulary = WordPiece::read_bytes(list.join("\n").as_bytes()).map_err(plain)?;
        let model = WordPiece::builder()
            .vocab(vocabulary)
            .unk_token(UNKNOWN.to_owned())
            .build()
            .map_err(plain)?;
        if model.token_to_id(UNKNOWN).is_none() {
            return Err(anyhow!("the word pieces have no `{UNKNOWN}`"));
        }
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_normalizer(Some(BertNormalizer::default())).map_err(plain)?;
        tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
        Ok(Pieces { list, tokenizer })
    }

    /// The numbers of a text's pieces; of an empty text that of `[UNK]`.
    pub fn of(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        let found = self.tokenizer.encode_fast(text, false).map_err(plain)?;
        let unknown = || self.tokenizer.token_to_id(UNKNOWN).into_iter().collect();
        Ok(if found.get_ids().is_empty() { unknown() } else { found.get_ids().to_vec() })
    }

    pub fn number(&self, piece: &str) -> Option<u32> {
        self.tokenizer.token_to_id(piece)
    }

    pub fn list(&self) -> &[String] {
        &self.list
    }
}

fn plain(error: tokenizers::Error) -> anyhow::Error {
    anyhow!("{error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_at_the_longest_piece() {
        let list = ["[UNK]", "dog", "##s", "face", ",", "cafe"].map(str::to_owned).to_vec();
        let pieces = Pieces::new(list).unwrap();
        assert_eq!(pieces.of("Dogs, Café face").unwrap(), [1, 2, 4, 5, 3]);
        assert_eq!(pieces.of("xyz dog").unwrap(), [0, 1]);
        assert_eq!(pieces.of(" ").unwrap(), [0]);
        assert!(Pieces::new(vec!["dog".into()]).is_err());
    }
}
