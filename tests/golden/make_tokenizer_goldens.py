#!/usr/bin/env python3
"""Makes the tokenizer goldens with the Hugging Face tokenizers library.

    python3 tests/golden/make_tokenizer_goldens.py --shakespeare shakespeare-val.txt

Made with tokenizers 0.23.3. Everything is drawn from fixed seeds, so it can be run again. Writes
beside itself:

  tokenizer_v2.json        a small tokenizer trained here, built as DeepSeek-V2's: its sequence of
                           pre-tokenizers, merges as "a b", no tokens for the 13 bytes that UTF-8
                           never contains, single letters among the added tokens
  tokenizer_mixed.json     a list of texts, in all about 250 KB
  tokenizer_mixed.demo.ids and tokenizer_mixed.v2.ids
                           their ids by model/demo/tokenizer.json and by tokenizer_v2.json: uint16,
                           little endian, each text's ids followed by 65535
  tokenizer_variants.json  other pre-tokenizers and added tokens put in place of the demo model's,
                           each with texts and ids

With --compare DRIVER it writes nothing, but compares many times as much text (--seed, --kib) with
DRIVER TOKENIZER TEXTS IDS, a program that reads texts (uint32 count, then for each uint32 length and
bytes) and writes ids (for each text uint32 count and int32 ids), and prints the differences.
"""

import argparse
import copy
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).resolve().parent
DEMO = HERE.parent.parent / "model" / "demo" / "tokenizer.json"

LANGUAGES = [
    "All human beings are born free and equal in dignity and rights, aren't they?",
    "Tous les êtres humains naissent libres ; l'été, où çà ? Œuvre, naïveté, Noël.",
    "Alle Menschen sind frei und gleich an Würde geboren, öfter größer; STRASSE, ẞ, ß.",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy. İstanbul'da ığdır.",
    "Все люди рождаются свободными и равными в своём достоинстве и правах. Ёлка, ѣ.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι· Ἐν ἀρχῇ ἦν ὁ λόγος, ᾳ, ΐ.",
    "Բոլոր մարդիկ ծնվում են ազատ ու հավասար։ ყველა ადამიანი იბადება თავისუფალი.",
    "يولد جميع الناس أحرارًا ومتساوين في الكرامة والحقوق، ١٢٣٤٥٦٧٨٩٠ ﷽ لا إله.",
    "כל בני האדם נולדו בני חורין ושווים בערכם; בְּרֵאשִׁית בָּרָא אֱלֹהִים.",
    "मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है। १२३४",
    "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা নিয়ে জন্মগ্রহণ করে। மனிதப் பிறவியினர் சகலரும்.",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์ ๑๒๓ ๆ ฯลฯ",
    "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系相待。〇㐀𠀀龦",
    "すべての人間は、生まれながらにして自由であり、かつ、ﾊﾝｶｸ カタカナー「」々ゝヽヿ。",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. ㄱㄴㄷ 각",
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "ሰው ሁሉ ነጻ ሆኖ ሲወለድ። ཀུན་གྱིས། មនុស្សទាំងអស់ ᠮᠣᠩᠭᠣᠯ ᓄᓇᕗᑦ ꦗꦮ 𐐀𐐨 𞤀𞤢 𑢠",
]
EMOJI = [
    "😀", "👩‍👩‍👧‍👦", "🇫🇷🇯🇵", "👍🏽", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "❤️‍🔥", "1️⃣", "🫨", "🪿🫏", "🧑🏿‍🚀", "☺︎", "⚧",
    "🀄", "🂡", "©®™", "♥️", "🫩",
]
SPACES = [
    " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", "\v", "\f", "\u0085", "\u00a0", "\u1680",
    "\u180e", "\u2000\u2003", "\u200a", "\u200b", "\u200d", "\u2028", "\u2029", "\u202f", "\u205f",
    "\u3000", "\ufeff", " \n ", "\t\t", "  \r\n  ", " " * 17, "\n" * 5, "\x1c\x1d\x1e\x1f",
]
PUNCTUATION = [
    "!!!", "?!?", "...", "…", "--", "—–‐", "***", "===", "<<>>", "«»", "„“”‘’", "()[]{}", "@#$%^&*",
    "~`", "\\|/", "，。！？；：", "「」『』", "・", "‼⁉", "°C", "±×÷", "≤≥≠", "→⇒", "¿¡", "_", "___",
    "$1.50", "€20", "₽₿", "½⅓", "²³", "Ⅷⅳ", "№", "㊗㋿", "'s", "'re", "’s", "'LL", "؟،؛", "।॥", "^_^",
]
CODE = [
    "def f(x):\n    return x**2  # code\n", "for (int i = 0; i < n; ++i) {\n\t\ta[i] += b[i];\n}\n",
    "https://example.org/a/b?c=d&e=%20#frag", "user.name+tag@mail.example.com", "C:\\dir\\file.txt",
    "#include <vector>\r\n#define X(a) a##_t\r\n", "SELECT * FROM t WHERE a='b''c' AND d>=1e-9;",
    "<div class=\"x\">&nbsp;</div>", "{\"key\": [1, 2.5, null], \"k2\": \"\\u00e9\"}", "$HOME/.x=${y:-z}",
    "snake_case camelCase PascalCase kebab-case SCREAMING_CASE __init__", "0xDEADBEEF 0b1010 1_000",
    "x = y ? a[i] : *p->q; // done\n\n\n", "```python\nprint('hi')\n```\n", "\\frac{a}{b} \\sum_{i=0}^n",
]
CONTROL = ["<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User",
           "User｜>", "<｜", "｜>", "<think>", "</think>", "<｜▁pad▁｜>"]


def any_character(rng):
    """A code point from one of the planes in use, assigned or not, never a surrogate."""
    low, high = rng.choice([(0, 0x7F), (0x80, 0x2FF), (0x300, 0x36F), (0x370, 0x1FFF),
                            (0x2000, 0x2FFF), (0x3000, 0xD7FF), (0xE000, 0xFFFF),
                            (0x10000, 0x11FFF), (0x12000, 0x1FFFF), (0x20000, 0x323AF),
                            (0xE0000, 0xE01EF), (0x10000, 0x10FFFF)])
    return chr(rng.randint(low, high))


def numbers(rng):
    digits = "".join(rng.choice("0123456789") for _ in range(rng.choice([1, 2, 3, 4, 7, 12, 40])))
    return rng.choice(["{}", "{}.5", "1,{}", "-{}", "{}e3", "٣{}", "{}४५", "{}Ⅳ", "a{}b"]).format(digits)


def marks(rng):
    base = rng.choice("aeınқ한あ中ก ")
    return base + "".join(chr(rng.randint(0x300, 0x36F)) for _ in range(rng.randint(1, 9)))


def fragment(rng, shakespeare):
    kind = rng.randrange(12)
    if kind == 0:
        at = rng.randrange(len(shakespeare) - 300)
        return shakespeare[at:at + rng.randint(5, 250)]
    if kind == 1:
        return "".join(any_character(rng) for _ in range(rng.randint(1, 30)))
    if kind == 2:
        return numbers(rng)
    if kind == 3:
        return marks(rng)
    if kind == 4:
        return "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 4)))
    if kind == 5:
        word = rng.choice(["a", "ab", " ", "é", "=", "中", "!", "\n", "ö", "\u0301", "\t "])
        return word * rng.randint(2, 40)
    if kind in (6, 7):
        language = rng.choice(LANGUAGES)
        at = rng.randrange(len(language))
        return language[at:at + rng.randint(1, 60)]
    if kind == 8 and rng.randrange(4) == 0:
        return rng.choice(CONTROL)
    return rng.choice([EMOJI, PUNCTUATION, CODE, SPACES][rng.randrange(4)])


def mixed_texts(seed, size, shakespeare):
    """Texts of about `size` bytes in all."""
    rng = random.Random(seed)
    texts, total = [], 0
    while total < size:
        text = "".join(fragment(rng, shakespeare) for _ in range(rng.choice([1, 3, 10, 40])))
        texts.append(text)
        total += len(text.encode())
    return texts


def fixed_texts(shakespeare):
    texts = [""] + SPACES + LANGUAGES + EMOJI + PUNCTUATION + CODE + CONTROL
    texts += [a + b for a in ("x", " x", "1", "!") for b in SPACES]
    texts += [a + "x" for a in SPACES]
    texts += [shakespeare[:30000], "\n".join(LANGUAGES * 3), "".join(EMOJI), " ".join(CODE)]
    texts += ["".join(map(chr, range(0x3000)))]
    return texts


def cased_letters():
    """The inside of a class with all cased letters, as DeepSeek-V2's second pattern spells it out."""
    parts, start, last = [], None, None
    for point in list(range(0x1F000)) + [None]:
        if point is not None and unicodedata.category(chr(point)) in ("Lu", "Ll", "Lt"):
            start = point if start is None else start
            last = point
        elif start is not None:
            parts.append(chr(start) + ("-" + chr(last) if last > start else ""))
            start = None
    return "".join(parts)


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def byte_level(prefix=False, regex=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def sequence(*stages):
    return {"type": "Sequence", "pretokenizers": list(stages)}


def v2_stages():
    return sequence(
        split("[\\r\\n]"),
        split("\\s?[" + cased_letters() + "]+"),
        split("\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+"),
        split("\\s+$"),
        split("[一-龥ࠀ-一가-\ud7ff]+"),
        {"type": "Digits", "individual_digits": True},
        byte_level())


def added(identity, content, special=False, normalized=False, **more):
    token = {"id": identity, "content": content, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": normalized, "special": special}
    token.update(more)
    return token


NEVER_IN_UTF8 = [0xC0, 0xC1] + list(range(0xF5, 0x100))


def train_v2(shakespeare, merges=3000):
    never = {chr(byte) for byte in NEVER_IN_UTF8}  # these 13 stand for themselves in the alphabet
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - never)
    tokenizer = Tokenizer(models.BPE())
    base = json.loads(tokenizer.to_str())
    base["pre_tokenizer"] = v2_stages()
    tokenizer = Tokenizer.from_str(json.dumps(base))
    texts = mixed_texts(7, 150000, shakespeare) + [shakespeare[30000:]] + LANGUAGES * 3
    trainer = trainers.BpeTrainer(vocab_size=len(alphabet) + merges, min_frequency=2,
                                  initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    whole = json.loads(tokenizer.to_str())
    model = whole["model"]
    model["merges"] = [" ".join(merge) for merge in model["merges"]]
    size = len(model["vocab"])
    contents = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"] + [chr(b) for b in NEVER_IN_UTF8]
    whole["added_tokens"] = [added(size + i, content, special=i < 2, normalized=True)
                             for i, content in enumerate(contents)]
    return whole


def variants():
    """Other pre-tokenizers and added tokens, for the demo model's vocabulary."""
    cl100k = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
              " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
    behaviors = ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
    pre = [byte_level(False, True), byte_level(True, True), byte_level(True, False),
           sequence(split(cl100k), byte_level()),
           sequence(split("[\\r\\n]"), split("\\s?\\p{L}+"), split("\\s?\\p{P}+"),
                    split("[一-龥ࠀ-一가-\ud7ff]+"), split("\\p{N}"), byte_level()),
           sequence({"type": "Digits", "individual_digits": False}, byte_level(True, False)),
           sequence({"type": "Digits", "individual_digits": True}, byte_level(True, True)),
           sequence(sequence(split("^a|b$|^"), split(".x?")), byte_level()),
           sequence(split("a*"), byte_level()), sequence(split("\\s+$"), byte_level()),
           sequence(split("[^\\S\\n]+|\\d{,2}|\\D\\u00e9|\\v|[\\x41-\\x43.:=]"), byte_level()),
           sequence(split("(?<=\\p{Lu})\\p{Ll}++|(?>\\P{L}{2,3}?)|(?<!x)[\\p{Mn}\\p{So}\\p{Sc}]"),
                    byte_level())]
    pre += [sequence(split(pattern, behavior, invert, kind), byte_level()) for behavior in behaviors
            for invert in (False, True)
            for pattern, kind in (("\\s|e|é*", "Regex"), ("..", "String"), (" ", "String"))]
    plain = [added(0, "<｜begin▁of▁sentence｜>", True)]
    strips = plain + [
        added(1, "<｜end▁of▁sentence｜>", True, lstrip=True, rstrip=True),
        added(3, "<｜User｜>", False, rstrip=True), added(4, "<｜Assistant｜>", False, lstrip=True),
        added(2048, "☃", False, True), added(2049, "<｜", False, True), added(2050, "<｜Us", False),
        added(2051, "  ", False, True), added(2052, "\n\n\n", False), added(2053, "aa", False, True),
        added(2054, "aaaa", False, True), added(2055, "User｜>", False, True)]
    cases = [{"pre_tokenizer": entry, "added_tokens": plain} for entry in pre]
    cases.append({"pre_tokenizer": None, "added_tokens": strips})
    cases.append({"pre_tokenizer": byte_level(True, True), "added_tokens": strips})
    cases.append({"pre_tokenizer": pre[0], "added_tokens": plain, "ignore_merges": True})
    return cases


def apply_variant(demo, case):
    whole = copy.deepcopy(demo)
    whole["pre_tokenizer"] = case["pre_tokenizer"] or demo["pre_tokenizer"]
    whole["added_tokens"] = case["added_tokens"]
    whole["model"]["ignore_merges"] = case.get("ignore_merges", False)
    if whole["model"]["ignore_merges"]:  # a token that the merges do not reach
        whole["model"]["vocab"]["Ġzebra"] = 2048
    return whole


def variant_texts(shakespeare):
    texts = mixed_texts(11, 1500, shakespeare) + LANGUAGES[1:3] + PUNCTUATION[:3]
    texts += ["  x <｜User｜>  hi \n<｜Assistant｜>\u3000\u00a0 a<｜end▁of▁sentence｜> \t b ö ☃ aaaaaaa",
              "--the-final..countdown.. é.. é é", "The  final ", "aaab\naxa a\u00a0", "zebra a zebra",
              "a.b:c=d ABCD 123 \v\f x\r\ny \u0085z", "ÀÉa\u0301\u0302 €5 ☃☃ Xyz XyZ", " \n\n\n\n "]
    return texts


def ids_of(tokenizer, texts):
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [entry.ids for entry in encoded]


def write_ids(path, ids):
    with open(path, "wb") as file:
        for one in ids:
            file.write(struct.pack("<%dH" % (len(one) + 1), *one, 65535))


def write_goldens(shakespeare):
    v2 = train_v2(shakespeare)
    (HERE / "tokenizer_v2.json").write_text(json.dumps(v2, ensure_ascii=False) + "\n")
    texts = fixed_texts(shakespeare) + mixed_texts(1, 170000, shakespeare)
    (HERE / "tokenizer_mixed.json").write_text(
        json.dumps(texts, ensure_ascii=False, separators=(",\n", ":")) + "\n")
    for name, path in (("demo", DEMO), ("v2", HERE / "tokenizer_v2.json")):
        write_ids(HERE / f"tokenizer_mixed.{name}.ids", ids_of(Tokenizer.from_file(str(path)), texts))
    demo = json.loads(DEMO.read_text())
    texts, cases = variant_texts(shakespeare), variants()
    for case in cases:
        tokenizer = Tokenizer.from_str(json.dumps(apply_variant(demo, case)))
        case["ids"] = ids_of(tokenizer, texts)
    (HERE / "tokenizer_variants.json").write_text(
        json.dumps({"texts": texts, "cases": cases}, ensure_ascii=False,
                   separators=(",", ":")).replace("},{\"pre", "},\n{\"pre") + "\n")


def driver_ids(driver, tokenizer_file, texts):
    with tempfile.TemporaryDirectory() as folder:
        source, target = pathlib.Path(folder) / "texts", pathlib.Path(folder) / "ids"
        with open(source, "wb") as file:
            file.write(struct.pack("<I", len(texts)))
            for text in map(str.encode, texts):
                file.write(struct.pack("<I", len(text)) + text)
        subprocess.run([driver, tokenizer_file, source, target], check=True)
        data, at, result = target.read_bytes(), 0, []
        for _ in texts:
            count, = struct.unpack_from("<I", data, at)
            result.append(list(struct.unpack_from("<%di" % count, data, at + 4)))
            at += 4 + 4 * count
        return result


def compare(driver, name, whole, texts):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps(whole))
        file.flush()
        expected = ids_of(Tokenizer.from_file(file.name), texts)
        found = driver_ids(driver, file.name, texts)
    different = [i for i in range(len(texts)) if expected[i] != found[i]]
    print(f"{name}: {len(texts)} texts, {sum(len(t.encode()) for t in texts)} bytes,"
          f" {sum(map(len, expected))} ids, {len(different)} texts differ", flush=True)
    for i in different[:3]:
        at = next((k for k, (a, b) in enumerate(zip(expected[i], found[i])) if a != b), 0)
        print(f"  {texts[i][:80]!r} at {at}: {expected[i][at:at+6]} {found[i][at:at+6]}")
    return len(different)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shakespeare", required=True, help="any English text of 50 KB or more")
    parser.add_argument("--compare", metavar="DRIVER")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--kib", type=int, default=4096)
    options = parser.parse_args()
    shakespeare = pathlib.Path(options.shakespeare).read_text()
    if not options.compare:
        write_goldens(shakespeare)
        return 0
    demo, v2 = json.loads(DEMO.read_text()), json.loads((HERE / "tokenizer_v2.json").read_text())
    texts = mixed_texts(options.seed, options.kib << 10, shakespeare)
    rng = random.Random(options.seed)
    texts += ["".join(any_character(rng) for _ in range(1000)) for _ in range(options.kib // 2)]
    bad = compare(options.compare, "demo", demo, texts) + compare(options.compare, "v2", v2, texts)
    few = texts[:max(1, len(texts) // 40)]
    for i, case in enumerate(variants()):
        bad += compare(options.compare, f"variant {i}", apply_variant(demo, case), few)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
