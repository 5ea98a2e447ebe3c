"""Small tokenizers of the kinds that model families have beside GPT-2's, with what Hugging Face's
tokenizers library makes of awkward texts.

    python test/oracles/make-tokenizer-fixtures.py --out test/fixtures/tokenizers

    llama     SentencePiece's BPE: a space before the text, bytes where a character has no token
    metaspace the same, as newer files write it down
    gemma     the same without the space before the text
    nfc       byte-level BPE behind a normalisation to NFC (Pythia, Qwen)
    bert, bert-cased
              WordPiece, without and with capitals and accents

Needs tokenizers; offsets in the cases count code points.
"""

import argparse
import json
import re
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

source = (Path(__file__).parent / "make-gpt2-fixture.py").read_text()
TEXT = re.search(r'TRAINING_TEXT = """(.*?)"""', source, re.S).group(1)
CASES = [
    "Once upon a time",
    " a space before",
    "  two spaces",
    "The fox's house wasn't  there;\nit was\n\n  gone.\t12 345",
    "",
    " ",
    "naïve café déjà vu Ångström ß",
    "日本語のテキストと中文",
    "👩‍👩‍👧‍👦 family, 🦊 fox, 🇩🇪 flag",
    "e\u0301 A\u030angstro\u0308m \u1112\u1161\u11ab q\u0323\u0307 \u2126 \u212b end",
    "Привет, мир!",
    "line one\r\nline two\r\n",
    "before<s>after the</s> fox",
    "<s>",
    "trailing   ",
]


WORD_CASES = CASES + [
    "before[MASK]after the[SEP] fox [UNK] [CLS]the",
    "[mask] [ MASK ] ##ing",
    "İstanbul ÀÉÎ ΑΣ ß ǅ \ufb01",
    "once" * 26 + " upon " + "a" * 100,
    "a\x00b on\u200dce\ufffd up\u00adon a\u00a0time\u2028the\u0085fox \x1b[0m",
    "snake_case don't $5.00 a≮b `x` a+b=c ¿que? «the» time—fox … ;\u037e",
    "the日本fox \uf900 𠀀 \u3042\u3044 한국어",
    "\U0001F98A fox\U0001D400",
]


def word_piece(lowercase: bool) -> dict:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=220, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        initial_alphabet=list("éÉèß日한ᄒαΣσ,.;:'\"$_-=+<`[]¿…"), show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    return json.loads(tokenizer.to_str())


def trained(pre_tokenizer, normalizer) -> dict:
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=160, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    value = json.loads(tokenizer.to_str())
    # The byte tokens stand behind the special ones, as SentencePiece has them.
    vocabulary = value["model"]["vocab"]
    shifted = {token: i if i < 3 else i + 256 for token, i in vocabulary.items()}
    shifted |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    value["model"]["vocab"] = dict(sorted(shifted.items(), key=lambda pair: pair[1]))
    return value


def write(out: Path, name: str, value: dict, config: dict, texts: list[str] = CASES) -> None:
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(value, ensure_ascii=False) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    cases = []
    for text in texts:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        cases.append({"text": text, "ids": encoding.ids, "offsets": encoding.offsets})
    (folder / "cases.json").write_text(json.dumps(cases) + "\n")
    print(name, tokenizer.get_vocab_size(), [len(case["ids"]) for case in cases])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    replace = normalizers.Replace(" ", "▁")
    prepended = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    write(out, "llama", trained(None, prepended), special)
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    write(out, "metaspace", trained(metaspace, None), special)
    write(out, "gemma", trained(pre_tokenizers.Split(" ", "merged_with_previous"), replace), special)
    byte_level = json.loads(
        (Path(__file__).parent.parent / "fixtures/gpt2-tiny/f32/tokenizer.json").read_text())
    byte_level["normalizer"] = {"type": "NFC"}
    write(out, "nfc", byte_level, {"bos_token": "<|endoftext|>"})
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    write(out, "bert", word_piece(lowercase=True), names, WORD_CASES)
    write(out, "bert-cased", word_piece(lowercase=False), names, WORD_CASES)
    print(tokenizers.__version__)
