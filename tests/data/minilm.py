"""Writes tests/data/minilm: a tiny sentence encoder of all-MiniLM-L6-v2's form, random weights, and what
PyTorch makes of some texts. Needs torch, transformers and safetensors."""

import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, BertTokenizer

OUT = pathlib.Path(__file__).parent / "minilm"
OUT.mkdir(exist_ok=True)
WORDS = "[PAD] [UNK] [CLS] [SEP] dog ##s face of a the red - , ' letter written text cafe 3".split()
(OUT / "vocab.txt").write_text("\n".join(WORDS) + "\n")
torch.manual_seed(0)
config = BertConfig(
    vocab_size=len(WORDS), hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
    intermediate_size=40, max_position_embeddings=12,
)
model = BertModel(config, add_pooling_layer=True).eval()
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.5)
save_file({k: v.contiguous() for k, v in model.state_dict().items()}, OUT / "model.safetensors")
keys = ["hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers",
        "max_position_embeddings", "layer_norm_eps"]
(OUT / "config.json").write_text(json.dumps({k: getattr(config, k) for k in keys}) + "\n")

tokenizer = BertTokenizer(str(OUT / "vocab.txt"), do_lower_case=True)
texts = ["Dogs", "the face of a dog", "red-text, letters", "Café 3", "unknowable words", "",
         "a a a a a a a a a a a a a a a a"]
vectors = []
with torch.no_grad():
    for text in texts:
        # An empty text is one unknown word for us.
        batch = tokenizer(text or "zzz", return_tensors="pt", truncation=True, max_length=12)
        mean = model(**batch).last_hidden_state.mean(1)
        vectors.append(torch.nn.functional.normalize(mean, dim=-1)[0].tolist())
(OUT / "golden.json").write_text(json.dumps({"texts": texts, "vectors": vectors}) + "\n")
