"""Detect the code page of the names in a zip that does not declare it.

Many programs write names in their system's code page. charset-normalizer's own detection is made for longer texts: it
is right for 60 % of zips with one to five names in other languages. Its letter frequencies are used for a model of file
names instead, which chooses the code page and language with the highest likelihood.
`tests/imaging/test_code_pages.py` measures its accuracy.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from math import log

from charset_normalizer.constant import FREQUENCIES

_WEST = ("German", "French", "Spanish", "Italian", "Portuguese", "Dutch", "Swedish", "Norwegian", "Danish", "Finnish")
_CENTRAL = ("Polish", "Czech", "Hungarian", "Slovak", "Slovene", "Croatian", "Romanian")
_CYRILLIC = ("Russian", "Ukrainian", "Bulgarian")

PAGES: dict[str, tuple[float, tuple[str, ...]]] = {
    "cp932": (0, ("Japanese",)),
    "gb18030": (0, ("Chinese",)),
    "cp950": (-0.5, ("Chinese Classical",)),
    "cp949": (0, ("Korean",)),
    "cp866": (0, _CYRILLIC),
    "cp1251": (-0.5, (*_CYRILLIC, "Serbian")),
    "koi8_r": (-4, ("Russian",)),
    "cp437": (0, _WEST),
    "cp850": (-0.2, _WEST),
    "cp1252": (-0.5, _WEST),
    "cp852": (-0.5, _CENTRAL),
    "cp1250": (-0.7, _CENTRAL),
    "cp737": (-1, ("Greek",)),
    "cp1253": (-1.5, ("Greek",)),
    "cp857": (-0.7, ("Turkish",)),
    "cp1254": (-1.2, ("Turkish",)),
    "cp775": (-3, ("Lithuanian", "Estonian")),
    "cp1257": (-3, ("Lithuanian", "Estonian")),
    "cp862": (-3, ("Hebrew",)),
    "cp1255": (-3, ("Hebrew",)),
    "cp720": (-2, ("Arabic", "Farsi")),
    "cp1256": (-2, ("Arabic", "Farsi")),
    "cp874": (-2, ("Thai",)),
}
"""Code pages of DOS and Windows: log prior of the code page, up to a constant, and its languages."""

_RARE_LETTERS = {
    "German": "üäöß",
    "French": "éèêàçâîôûïëœùæ",
    "Spanish": "óíáéñúü",
    "Italian": "èàòùìé",
    "Portuguese": "ãçáéíóêõâúàôü",
    "Dutch": "ëéïóöü",
    "Swedish": "äöåé",
    "Norwegian": "øåæéòô",
    "Danish": "øåæé",
    "Finnish": "äöå",
    "Polish": "łąęóżśćńź",
    "Czech": "íáéýěřčžšůúťďňó",
    "Hungarian": "áéíóöőúüű",
    "Slovak": "áíéčšžýúľťňôďäóŕĺ",
    "Slovene": "čšž",
    "Croatian": "čšžćđ",
    "Romanian": "ăâîșțşţ",
    "Turkish": "ıüşöçğâîû",
    "Russian": "ё",
    "Ukrainian": "іїєґ",
    "Serbian": "ђћљњџј",
    "Greek": "ώύΐϊϋ",
}
"""Letters that charset-normalizer's tables of the 26 most frequent ones may omit, by language."""

_NAME_CHARACTERS = {
    "Japanese": (
        "新写真画像動作成資料表版会社員部品集図家庭山川海花春夏秋冬京都府県市町村区番号設定赤青黄緑白黒大小前後左右上下"
    ),
    "Chinese": (
        "新建图片照相册文件夹视频产品设计网站模板高清素材副本资料客厅家具沙发桌椅猫狗花海山水春夏秋冬北京"
        "华区路店号第章集书馆公司校老师旅游红黄蓝绿白黑灰粉紫棕大中小前后左右正背侧面一二三四五六七八九十主详情测试杯茶车船门窗灯"
    ),
    "Chinese Classical": (
        "新增資料夾圖片照相簿檔案影像視訊產品設計網站模板高副本客廳家具沙發桌椅貓狗花海山水春夏秋冬台北灣"
        "香港華區路店號第章集書館公司校老師旅遊語文紅黃藍綠白黑灰大中小前後左右正背側面一二三四五六七八九十測試杯茶車"
    ),
    "Korean": (
        "새폴더그림진사복본료자동영상파일문서제목없음디자인소개설정화면고양이강아지꽃바다산집방책학교회여"
        "행친구가족결혼생봄여름을겨울서울부산마라나아오우트스크르카타하주보비국중어군시기수원무조전빨간노란파란색검정흰앞뒤옆위테컵책상시계"
    ),
}
"""Characters that are more frequent in names of files and folders than in texts."""

_FREQUENT: dict[str, tuple[tuple[float, str], ...]] = {
    "Japanese": (
        (0.15, "".join(FREQUENCIES["Japanese"]) + _NAME_CHARACTERS["Japanese"]),
        (0.3, "".join(FREQUENCIES["Japanese—"])),
        (0.3, "".join(FREQUENCIES["Japanese——"])),
    ),
    "Chinese": ((0.35, "".join(FREQUENCIES["Chinese"]) + _NAME_CHARACTERS["Chinese"]),),
    "Chinese Classical": (
        (
            0.35,
            "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作里"
            "用道行所然家種事成方多經麼去法學如都同現當沒動面起看定天分還" + _NAME_CHARACTERS["Chinese Classical"],
        ),
    ),
    "Korean": ((0.4, "".join(FREQUENCIES["Korean"]) + _NAME_CHARACTERS["Korean"]),),
}
"""For languages with thousands of characters: total share of the most frequent ones, and these in order."""

_DOUBLE_BYTE: dict[str, tuple[str, range, int, int]] = {
    "cp932": ("shift_jis", range(0x88, 0x98), 2965, 3390),
    "gb18030": ("gb2312", range(0xB0, 0xD8), 3755, 3008),
    "cp950": ("big5", range(0xA4, 0xC7), 5401, 7652),
    "cp949": ("euc_kr", range(0xB0, 0xC9), 2350, 13000),
}
"""Double-byte pages: the standard included, lead bytes of its common characters, number of these, number of others."""

_LANGUAGE_PRIORS = {"Slovene": -3, "Croatian": -2.3, "Slovak": -1, "Romanian": -1, "Hungarian": -0.7, "Czech": -0.5}
"""Log prior of the less usual languages of a page, relative to the others."""

_PAIRS = frozenset("ão ãe õe çã çõ ño ña ße aß oß uß oë ağ oğ uğ aş ış iş şe şi фо фа".split())
"""Pairs of letters that are more frequent than other pairs of their classes."""

_FINAL, _NOT_FINAL = "ךםןףץς", "כמנפצσ"
"""Letters with one form at the end of a word and another elsewhere."""

_UNIT_SIGNS = "°µ²³½¼¾×£€±®©ªº"
_WORDS = re.compile(rf"((?:(?![{_UNIT_SIGNS}])[^\W\d_])+)|.", re.DOTALL)
_PUNCTUATION = "«»№°–—’‘“”…·¡¿§€©®™、。「」【】（）！？～・ー，：；《》　①②③④⑤⑥⑦⑧⑨⑩"
_IMPOSSIBLE, _UNLIKELY = log(1e-8), log(0.02)
_SAMPLE = 1_000  # bytes to detect the page from: enough to be certain, and a zip may list 20,000 names


def decode_names(names: Sequence[bytes]) -> list[str]:
    """Decode the names of one zip: as UTF-8 if they are valid, else in the most likely code page of all.

    Args:
        names: The names in the zip whose encoding it does not declare.

    Returns:
        As many names as text. Invalid bytes become U+FFFD.

    Example:
        >>> decode_names(["新しい/猫.png".encode("cp932"), b"plain.png"])
        ['新しい/猫.png', 'plain.png']
    """
    as_utf8 = [_utf8(name) for name in names]
    if None not in as_utf8:
        return [str(text) for text in as_utf8]
    # Two bytes may be valid UTF-8 by coincidence: 猫 in GBK is è. Three in a row are none.
    sure = [text is not None and all(not "\x7f" < letter <= "\u07ff" for letter in text) for text in as_utf8]
    page = detect_page([name for name, is_sure in zip(names, sure, strict=True) if not is_sure])
    if page not in _DOUBLE_BYTE:
        sure = [text is not None for text in as_utf8]
        page = detect_page([name for name, is_sure in zip(names, sure, strict=True) if not is_sure])
    return [
        str(text) if is_sure else name.decode(page, "replace")
        for name, text, is_sure in zip(names, as_utf8, sure, strict=True)
    ]


def detect_page(names: Sequence[bytes]) -> str:
    """Return the most likely of `PAGES` for names of which at least one is not ASCII."""
    parts = _parts(names)
    best, best_page = -float("inf"), "cp437"
    for page, (prior, languages) in PAGES.items():
        texts = [part.decode(page, "replace") for part in parts]
        likelihood = prior + max(
            _LANGUAGE_PRIORS.get(language, 0) + sum(_log_likelihood(text, page, language) for text in texts)
            for language in languages
        )
        if likelihood > best:
            best, best_page = likelihood, page
    return best_page


def _utf8(name: bytes) -> str | None:
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return None
    # These planes of Unicode are unassigned; ёлка in cp866 would be there.
    return None if any("\U00040000" <= letter < "\U000e0000" for letter in text) else text


def _parts(names: Sequence[bytes]) -> list[bytes]:
    """Return up to `_SAMPLE` bytes of distinct non-ASCII names of folders and files, without suffix.

    No page uses the bytes of a slash or a dot within other characters, but some use that of a backslash.
    """
    parts: dict[bytes, None] = {}
    size = 0
    for name in names[:: len(names) // 200 + 1]:
        for part in name.split(b"/"):
            stem, dot, ending = part.rpartition(b".")
            stem = (stem if dot and ending.isascii() and len(ending) <= 5 else part)[: _SAMPLE - size]
            if not stem.isascii() and stem not in parts:
                parts[stem] = None
                size += len(stem)
    return list(parts)


def _log_likelihood(text: str, page: str, language: str) -> float:
    """Return the log likelihood of a name in a language."""
    known = _letter_shares(language)
    if page in _DOUBLE_BYTE:
        return _double_byte_text(text, page, known)
    return sum(
        _word(text, match.start(), match.end(), known) if match[1] else _separator(text, match.start())
        for match in _WORDS.finditer(text)
    )


def _double_byte_text(text: str, page: str, known: dict[str, float]) -> float:
    """Return the log likelihood of a name in a double-byte page."""
    total, before = 0.0, " "
    for at, letter in enumerate(text):
        if letter <= "\x7f":
            total += _ascii(letter)
        else:
            after = text[at + 1 : at + 2] or " "
            if page == "cp949" and not before.isalpha() and not after.isalpha():
                total += log(0.3)  # few Korean words have one syllable
            same_kind = "\uff00" < min(letter, before) and max(letter, before) < "\uffa0"  # ＡＢＣ, ﾃｽﾄ
            total += log(0.9 / 63) if same_kind else _double_byte_character(letter, page, known)
            # A single one inside an ASCII word is an accented letter of another page and the letter after it.
            total += (0, log(0.1 if (before + after).strip().islower() else 0.2), log(0.005))[
                _is_ascii_letter(before) + _is_ascii_letter(after)
            ]
        before = letter
    return total


def _is_ascii_letter(letter: str) -> bool:
    return letter.isascii() and letter.isalpha()


def _ascii(letter: str) -> float:
    return log(0.003 if letter in "@[\\]^`{|}~" else 1 / 30)


def _word(text: str, start: int, end: int, known: dict[str, float]) -> float:
    """Return the log likelihood of a word in an alphabet; a constant per letter for ASCII, which all pages share."""
    word = text[start:end]
    if word.isascii():
        return len(word) * log(1 / 30)
    low = word.replace("İ", "ı").lower()
    upper_case = word.isupper() and len(word) > 1
    total = log(0.2) if upper_case else log(0.3) if word[0].isupper() else 0.0
    if not upper_case and word[1:] != low[1:]:
        total += 2 * _UNLIKELY
    if word[0] > "\x7f" and text[start - 1 : start].isdigit():
        total += log(0.05)
    if len(word) == 1:
        total += log(0.05 if text[end : end + 1].isdigit() else 0.2)
    for letter, after in zip(low, [*low[1:], ""], strict=True):
        odd = letter > "\x7f"
        total += known.get(letter, log(0.0004)) if odd else max(known.get(letter, -6), -6)
        if letter in (_FINAL if after else _NOT_FINAL):
            total += _UNLIKELY
        if after and (odd or after > "\x7f"):
            total += _letter_pair(letter, after)
    return total


def _letter_pair(before: str, letter: str) -> float:
    """Return the log likelihood ratio of two adjacent letters of which at least one is not ASCII."""
    script, vowel = _script_and_vowel(letter)
    other, vowel_before = _script_and_vowel(before)
    if script != other:
        return _UNLIKELY
    total = log(0.15) if script == "LATIN" and before > "\x7f" and letter > "\x7f" else 0.0
    if before + letter in _PAIRS:
        return log(3)
    if script in ("LATIN", "CYRILLIC", "GREEK"):
        total += log(0.6) if vowel == vowel_before else log(1.4)
    return total


def _separator(text: str, at: int) -> float:
    """Return the log likelihood of a character outside words at this position."""
    letter, before, after = text[at], text[at - 1 : at] or " ", text[at + 1 : at + 2] or " "
    if letter <= "\x7f":
        return _ascii(letter)
    if letter in _UNIT_SIGNS:
        # They are beside numbers, or are numbers.
        power = letter in "²³" and before.isalnum()
        beside = letter in "½¼¾" or power or before.isdecimal() or after.isdecimal()
        total = log(0.03 if beside else 0.003)
        joined = (before.isalpha() and letter not in "²³°©®ªº") + (after.isalpha() and letter not in "µ°£©")
        return total + (3 if before.isalpha() and after.isalpha() else joined) * _UNLIKELY
    total = _UNLIKELY if letter != "’" and before.isalpha() and after.isalpha() else 0.0
    if letter in _PUNCTUATION:
        return total + log(0.0003 if (letter, after) == ("«", " ") or (before, letter) == (" ", "»") else 0.003)
    unseen = unicodedata.category(letter) in ("Cc", "Cn", "Co") or letter == "\ufffd"
    return total + (_IMPOSSIBLE if unseen else log(1e-4))


@cache
def _letter_shares(language: str) -> dict[str, float]:
    """Return letter -> log of its share for the most frequent letters of a language."""
    table: dict[str, float] = {}
    for mass, frequent in _FREQUENT.get(language, ()):
        ranked = list(dict.fromkeys(frequent))
        total = sum(1 / (rank + 20) for rank in range(len(ranked)))
        for rank, letter in enumerate(ranked):
            table.setdefault(letter, log(mass / (rank + 20) / total))
    if not table:
        ranked = list(dict.fromkeys([*FREQUENCIES[language], *_RARE_LETTERS.get(language, "")]))
        total = sum(0.9**rank for rank in range(len(ranked)))
        table = {letter: log(max(0.9**rank / total, 0.002)) for rank, letter in enumerate(ranked)}
    return table


def _double_byte_character(letter: str, page: str, known: dict[str, float]) -> float:
    """Return the log of the share of a character in a double-byte page."""
    if letter in known:
        return known[letter]
    if letter in _PUNCTUATION:
        return log(0.004)
    standard, lead_bytes, common, rest = _DOUBLE_BYTE[page]
    try:
        raw = letter.encode(standard)
    except UnicodeEncodeError:
        return _IMPOSSIBLE if letter == "\ufffd" else log(0.04 / 15_000)
    if len(raw) == 1:  # half-width katakana
        return log(0.02 / 63)
    if unicodedata.category(letter) == "Lo":
        kana = unicodedata.name(letter, "").startswith(("HIRAGANA", "KATAKANA"))
        return log(0.6 / common) if raw[0] in lead_bytes else log(0.003 / 80 if kana else 0.02 / rest)
    return log(0.02 / 94) if "\uff00" < letter < "\uff60" else log(1e-5)


@cache
def _script_and_vowel(letter: str) -> tuple[str, bool]:
    """Return the script of a letter, and whether it is a vowel."""
    script = unicodedata.name(letter, "?").split()[0].replace("FEMININE", "LATIN").replace("MASCULINE", "LATIN")
    return script, unicodedata.normalize("NFD", letter)[0] in "aeiouyæœøıαεηιουωаеёиоуыэюяіє"
