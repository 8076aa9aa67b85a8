"""In which code page the names in a zip were written, where the zip itself does not say.

Many programs write names as the bytes that their system uses and do not say which those are. charset-normalizer's own
detection is made for whole texts: of zips with one to five names in other languages it gets 60 % right. So its tables
of letters serve a model for names instead: how likely is it that somebody gave these names, and that they became these
bytes? `tests/imaging/test_code_pages.py` measures how often that is right.
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
"""Code pages of DOS and Windows: log of how usual they are in zips, up to a constant, and their languages."""

_RARER = {
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
"""Letters of each language that charset-normalizer's tables, the 26 most frequent ones, may be without."""

_NAMES = {
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
"""Characters that names of files and folders have more often than texts do."""

_COMMON: dict[str, tuple[tuple[float, str], ...]] = {
    "Japanese": (
        (0.15, "".join(FREQUENCIES["Japanese"]) + _NAMES["Japanese"]),
        (0.3, "".join(FREQUENCIES["Japanese—"])),
        (0.3, "".join(FREQUENCIES["Japanese——"])),
    ),
    "Chinese": ((0.35, "".join(FREQUENCIES["Chinese"]) + _NAMES["Chinese"]),),
    "Chinese Classical": (
        (
            0.35,
            "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作里"
            "用道行所然家種事成方多經麼去法學如都同現當沒動面起看定天分還" + _NAMES["Chinese Classical"],
        ),
    ),
    "Korean": ((0.4, "".join(FREQUENCIES["Korean"]) + _NAMES["Korean"]),),
}
"""Of languages with thousands of characters: the share that the commonest ones have, and those in order."""

_WIDE: dict[str, tuple[str, range, int, int]] = {
    "cp932": ("shift_jis", range(0x88, 0x98), 2965, 3390),
    "gb18030": ("gb2312", range(0xB0, 0xD8), 3755, 3008),
    "cp950": ("big5", range(0xA4, 0xC7), 5401, 7652),
    "cp949": ("euc_kr", range(0xB0, 0xC9), 2350, 13000),
}
"""Of pages of two bytes: the standard within, the first bytes of its common characters, how many these and the rest."""

_SPOKEN = {"Slovene": -3, "Croatian": -2.3, "Slovak": -1, "Romanian": -1, "Hungarian": -0.7, "Czech": -0.5}
"""Log of how usual a language is among those of its pages, where it is not among the usual ones."""

_PAIRS = frozenset("ão ãe õe çã çõ ño ña ße aß oß uß oë ağ oğ uğ aş ış iş şe şi фо фа".split())
"""Letters that stand side by side more often than their kinds do."""

_FINAL, _NOT_FINAL = "ךםןףץς", "כמנפצσ"
"""Letters that have one form at the end of a word and another one elsewhere."""

_MEASURES = "°µ²³½¼¾×£€±®©ªº"
_WORDS = re.compile(rf"((?:(?![{_MEASURES}])[^\W\d_])+)|.", re.DOTALL)
_SIGNS = "«»№°–—’‘“”…·¡¿§€©®™、。「」【】（）！？～・ー，：；《》　①②③④⑤⑥⑦⑧⑨⑩"
_UNSEEN, _JUMBLED = log(1e-8), log(0.02)
_SAMPLE = 1_000  # bytes that a guess is made from: enough to be sure, and a zip may list 20,000 names


def decoded(names: Sequence[bytes]) -> list[str]:
    """The names of one zip as text: UTF-8 if they are that, else in the code page that all of them fit best.

    Args:
        names: As the zip has them, without those that it says the encoding of.

    Returns:
        As many texts. What is in no code page becomes U+FFFD.

    Example:
        >>> decoded(["新しい/猫.png".encode("cp932"), b"plain.png"])
        ['新しい/猫.png', 'plain.png']
    """
    as_utf8 = [_utf8(name) for name in names]
    if None not in as_utf8:
        return [str(text) for text in as_utf8]
    # Of two bytes that are UTF-8 one cannot be sure: 猫 in GBK is è. Three in a row are no coincidence.
    sure = [text is not None and all(not "\x7f" < letter <= "\u07ff" for letter in text) for text in as_utf8]
    page = guess([name for name, is_sure in zip(names, sure, strict=True) if not is_sure])
    if page not in _WIDE:
        sure = [text is not None for text in as_utf8]
        page = guess([name for name, is_sure in zip(names, sure, strict=True) if not is_sure])
    return [
        str(text) if is_sure else name.decode(page, "replace")
        for name, text, is_sure in zip(names, as_utf8, sure, strict=True)
    ]


def guess(names: Sequence[bytes]) -> str:
    """The page of `PAGES` in which names are most likely written. At least one of them is not ASCII."""
    parts = _parts(names)
    best, found = -float("inf"), "cp437"
    for page, (usual, languages) in PAGES.items():
        texts = [part.decode(page, "replace") for part in parts]
        likely = usual + max(
            _SPOKEN.get(language, 0) + sum(_likely(text, page, language) for text in texts) for language in languages
        )
        if likely > best:
            best, found = likely, page
    return found


def _utf8(name: bytes) -> str | None:
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return None
    # Nothing stands in these planes of Unicode; ёлка in cp866 would.
    return None if any("\U00040000" <= letter < "\U000e0000" for letter in text) else text


def _parts(names: Sequence[bytes]) -> list[bytes]:
    """The folders and files in names, each once and without its ending, until there are `_SAMPLE` bytes.

    No page has a slash or a dot among the bytes of other characters; of a backslash that is not so.
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


def _likely(text: str, page: str, language: str) -> float:
    """Log of how likely a name of this language is this one."""
    known = _letters(language)
    if page in _WIDE:
        return _in_characters(text, page, known)
    return sum(
        _word(text, found.start(), found.end(), known) if found[1] else _between(text, found.start())
        for found in _WORDS.finditer(text)
    )


def _in_characters(text: str, page: str, known: dict[str, float]) -> float:
    """Log of how likely a name is in a page of two bytes."""
    total, before = 0.0, " "
    for at, letter in enumerate(text):
        if letter <= "\x7f":
            total += _ascii(letter)
        else:
            after = text[at + 1 : at + 2] or " "
            if page == "cp949" and not before.isalpha() and not after.isalpha():
                total += log(0.3)  # few words of Korean are one syllable
            same_kind = "\uff00" < min(letter, before) and max(letter, before) < "\uffa0"  # ＡＢＣ, ﾃｽﾄ
            total += log(0.9 / 63) if same_kind else _wide(letter, page, known)
            # A single one within a word of ASCII is a letter with an accent, and ate the one behind it.
            total += (0, log(0.1 if (before + after).strip().islower() else 0.2), log(0.005))[
                _in_ascii(before) + _in_ascii(after)
            ]
        before = letter
    return total


def _in_ascii(letter: str) -> bool:
    return letter.isascii() and letter.isalpha()


def _ascii(letter: str) -> float:
    return log(0.003 if letter in "@[\\]^`{|}~" else 1 / 30)


def _word(text: str, start: int, end: int, known: dict[str, float]) -> float:
    """Log of how likely these letters of an alphabet are a word. One in ASCII says nothing, so that all are alike."""
    word = text[start:end]
    if word.isascii():
        return len(word) * log(1 / 30)
    low = word.replace("İ", "ı").lower()
    shouted = word.isupper() and len(word) > 1
    total = log(0.2) if shouted else log(0.3) if word[0].isupper() else 0.0
    if not shouted and word[1:] != low[1:]:
        total += 2 * _JUMBLED
    if word[0] > "\x7f" and text[start - 1 : start].isdigit():
        total += log(0.05)
    if len(word) == 1:
        total += log(0.05 if text[end : end + 1].isdigit() else 0.2)
    for letter, after in zip(low, [*low[1:], ""], strict=True):
        odd = letter > "\x7f"
        total += known.get(letter, log(0.0004)) if odd else max(known.get(letter, -6), -6)
        if letter in (_FINAL if after else _NOT_FINAL):
            total += _JUMBLED
        if after and (odd or after > "\x7f"):
            total += _side_by_side(letter, after)
    return total


def _side_by_side(before: str, letter: str) -> float:
    """Log of how likely two letters of an alphabet stand side by side, one of them not ASCII."""
    script, vowel = _sound(letter)
    other, vowel_before = _sound(before)
    if script != other:
        return _JUMBLED
    total = log(0.15) if script == "LATIN" and before > "\x7f" and letter > "\x7f" else 0.0
    if before + letter in _PAIRS:
        return log(3)
    if script in ("LATIN", "CYRILLIC", "GREEK"):
        total += log(0.6) if vowel == vowel_before else log(1.4)
    return total


def _between(text: str, at: int) -> float:
    """Log of how likely something that is no letter of a word stands there."""
    letter, before, after = text[at], text[at - 1 : at] or " ", text[at + 1 : at + 2] or " "
    if letter <= "\x7f":
        return _ascii(letter)
    if letter in _MEASURES:
        # They stand beside numbers, or are some.
        power = letter in "²³" and before.isalnum()
        beside = letter in "½¼¾" or power or before.isdecimal() or after.isdecimal()
        total = log(0.03 if beside else 0.003)
        joined = (before.isalpha() and letter not in "²³°©®ªº") + (after.isalpha() and letter not in "µ°£©")
        return total + (3 if before.isalpha() and after.isalpha() else joined) * _JUMBLED
    total = _JUMBLED if letter != "’" and before.isalpha() and after.isalpha() else 0.0
    if letter in _SIGNS:
        return total + log(0.0003 if (letter, after) == ("«", " ") or (before, letter) == (" ", "»") else 0.003)
    unseen = unicodedata.category(letter) in ("Cc", "Cn", "Co") or letter == "\ufffd"
    return total + (_UNSEEN if unseen else log(1e-4))


@cache
def _letters(language: str) -> dict[str, float]:
    """Letter -> log of its share; the most frequent ones of a language."""
    table: dict[str, float] = {}
    for mass, common in _COMMON.get(language, ()):
        ranked = list(dict.fromkeys(common))
        whole = sum(1 / (rank + 20) for rank in range(len(ranked)))
        for rank, letter in enumerate(ranked):
            table.setdefault(letter, log(mass / (rank + 20) / whole))
    if not table:
        ranked = list(dict.fromkeys([*FREQUENCIES[language], *_RARER.get(language, "")]))
        whole = sum(0.9**rank for rank in range(len(ranked)))
        table = {letter: log(max(0.9**rank / whole, 0.002)) for rank, letter in enumerate(ranked)}
    return table


def _wide(letter: str, page: str, known: dict[str, float]) -> float:
    """Log of the share of a character of a page of two bytes."""
    if letter in known:
        return known[letter]
    if letter in _SIGNS:
        return log(0.004)
    standard, first, common, rest = _WIDE[page]
    try:
        raw = letter.encode(standard)
    except UnicodeEncodeError:
        return _UNSEEN if letter == "\ufffd" else log(0.04 / 15_000)
    if len(raw) == 1:  # half-width katakana
        return log(0.02 / 63)
    if unicodedata.category(letter) == "Lo":
        kana = unicodedata.name(letter, "").startswith(("HIRAGANA", "KATAKANA"))
        return log(0.6 / common) if raw[0] in first else log(0.003 / 80 if kana else 0.02 / rest)
    return log(0.02 / 94) if "\uff00" < letter < "\uff60" else log(1e-5)


@cache
def _sound(letter: str) -> tuple[str, bool]:
    """The script of a letter, and whether it is a vowel."""
    script = unicodedata.name(letter, "?").split()[0].replace("FEMININE", "LATIN").replace("MASCULINE", "LATIN")
    return script, unicodedata.normalize("NFD", letter)[0] in "aeiouyæœøıαεηιουωаеёиоуыэюяіє"
