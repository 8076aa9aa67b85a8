"""imaging.code_pages: how often the code page of zip names is detected correctly."""

from __future__ import annotations

import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.imaging.code_pages import PAGES, decode_names, detect_page

CORPUS = {
    "cp932": (
        "新しいフォルダー/スクリーンショット 2024-01-05.png|写真/家族旅行.jpg|ソファ表面.png|画像一覧①.jpg|犬と猫.jpg|"
        "商品カタログ/椅子.png|京都の桜.jpg|資料/会議室.png|デスクトップ/名称未設定.png|運動会.jpg|表示.png|能登半島.jpg"
    ),
    "gbk": (
        "新建文件夹/图片1.jpg|微信图片_20240105.png|尤里的陰謀/图片誠.png|产品照片/沙发.jpg|北京故宫.jpg|未命名.png|"
        "截图/屏幕截图.png|我的猫/小花.jpg|桌面/家具 红木.png|毕业照.jpg|客厅/茶几.jpg|风景/黄山日出.jpg"
    ),
    "cp950": (
        "新增資料夾/圖片1.jpg|螢幕擷取畫面.png|台北101.jpg|產品照片/沙發.jpg|我的貓.jpg|功能/許願.png|未命名.png|"
        "畢業旅行/墾丁.jpg|桌面/家具.png|全家福.jpg|廚房餐具.jpg|文件/設計圖.png"
    ),
    "cp949": (
        "새 폴더/사진 1.jpg|스크린샷 2024.png|바탕 화면/소파.jpg|우리집 고양이.jpg|제품사진/의자.png|제주도 여행.jpg|"
        "이미지/무제.png|가족사진/생일.jpg|부산 바다.jpg|학교.png|뚝배기.jpg|결혼식.jpg"
    ),
    "cp866 cp1251": (
        "Новая папка/фото 1.jpg|Снимок экрана.png|кот.jpg|Рабочий стол/диван.jpg|Отпуск 2023/море.jpg|Москва.jpg|"
        "Каталог/стул красный.png|Безымянный.png|ДОКУМЕНТЫ/СКАН.png|день рождения.jpg|ёлка.jpg|Изображение.jpg"
    ),
    "cp437 cp850 cp1252": (
        "Kühlschrank/Tür.jpg|Möbel.png|Straße in Köln.jpg|Gemälde/Größe.png|Frühling.jpg|Übersicht.png|Vögel.jpg"
    ),
    "cp437 cp850 cp1252 ": (
        "été 2023/plage.jpg|canapé.jpg|Élève.png|Noël/fête.jpg|photo de français.jpg|Téléphone.jpg|forêt.jpg"
    ),
    "cp437 cp850 cp1252  ": (
        "mañana.jpg|España/niño.png|Sillón.jpg|cámara/sofá.jpg|colección.png|jardín.jpg|pingüino.jpg|Música/útil.png"
    ),
    "cp437 cp850 cp1252   ": "caffè.jpg|città/più.jpg|perché no.png|libertà.jpg|età/virtù.jpg",
    "cp850 cp1252": "São Paulo/praia.jpg|coração.png|férias/verão.jpg|avô.jpg|pão de açúcar.png",
    "cp850 cp1252 ": "Ærø.jpg|køkken/stol.png|Blåbær.jpg|Øl.jpg|Jordbær/på bordet.jpg",
    "cp852 cp1250": (
        "Zdjęcia/łóżko.jpg|Nowy folder/kwiaty żółte.png|krzesło.jpg|Święta.jpg|wakacje/morze śródziemne.jpg|źródło.png"
    ),
    "cp852 cp1250 ": "Obrázky/židle.jpg|příroda.png|růže.jpg|Nová složka/dům.jpg|květiny.png",
    "cp852 cp1250  ": "Köszönő/szék.jpg|fényképek/nyár.png|Tűzoltó.jpg|Új mappa/virág.png",
    "cp737 cp1253": "Φωτογραφίες/σπίτι.jpg|Νέος φάκελος/καρέκλα.png|διακοπές.jpg|θάλασσα.jpg|γάτα.png|Αθήνα.jpg",
    "cp857 cp1254": (
        "Yeni klasör/fotoğraf.jpg|İstanbul/boğaz.jpg|çiçek.png|Doğum günü.jpg|Masaüstü/koltuk sarı.png|kış.jpg"
    ),
}
"""Code pages -> names, as folders and files of photos are called where these are usual."""

SHORT = {
    "cp437 cp850 cp1252": (
        "Größe XL;Größe XL|Maß;45°;25µm;NIÑO;Maß;Fuß;Tür;TÜR;MÖBEL/STÜHLE;GRÜN|BLAU;Öl;Bär 2;20°C;90° links|180°;"
        "10µm|20µm;5 m²;½;¼ Pizza;10£;±5;Señor;AÑO 2020;ESPAÑA|CAFÉ;NOËL;ÉTÉ;été;Café;CAFÉ;fête;garçon|FRANÇAIS;"
        "Zoë;José;André 3;François;Ångström;båt;Öland;Ärger;è;ü;PERÙ;città;città|già;IMG_001 Küche|IMG_002 Küche;"
        "DSC_0001_Müller;Köln 2019/DSC001|Köln 2019/DSC002;Jürgen & Böhm;Büro;¿qué;Süß;Äpfel|Äste;SCHÖN;"
        "Türgriff rund Ø 30;Tasse weiß 250ml;-10°C;360° Ansicht;5µF|10µF;12 m²|Balkon;¾ Hose;1½ l;£20;BÉBÉ;CHÂTEAU;"
        "Crème brûlée;hôtel;NIÑA;SEÑOR LÓPEZ;mamá;Bogotá;Malmö;VÄSTERÅS;Hämeenlinna;è vero;lunedì|martedì"
    ),
    "cp850 cp1252": (
        "Schrank weiß 120×60;m²|½ Liter|5£;JOÃO;40×60 cm;IKEA 80×200|IKEA 90×200;Nº 5;SÃO PAULO;CORAÇÃO|AÇÃO;mão;"
        "não|pão;SMØRREBRØD;KØKKEN;ø 20 mm|ø 40 mm;© Müller;® logo;Teppich 160×230 grün;3 m³;IRMÃO|IRMÃ;maçã;"
        "FEIJÃO;TØJ|BLÅ;Tromsø"
    ),
    "cp866 cp1251": (
        "ФОТО/IMG_001|ПАСПОРТ;ПАСПОРТ;КОТ;МОСКВА|КИЕВ;Фото;фото;СКАН 01;Лист1;дом;ДОМ;НОВАЯ ПАПКА/IMG;Фото №1;"
        "Чертёж;мяч;ФАЙЛ;Вася|Петя;ЮРА;а|б|в;КВАРТИРА;Скан;ДОГОВОР|СЧЁТ;Дача 2015;ЛЕТО/IMG_1|ЛЕТО/IMG_2;Маша;кухня;"
        "СТОЛ|СТУЛ;Свадьба;вид1|вид2"
    ),
    "cp1251 cp866": ("ФОТО/IMG_001"),
    "cp857 cp1254": (
        "Fotoğraflar/şişe;şişe;ağaç;İSTANBUL;IŞIK|YAĞMUR;çanta|ayakkabı;Düğün;DÜĞÜN;kırmızı|yeşil;KÖŞE;Eskişehir;"
        "gözlük|saç"
    ),
    "cp932": (
        "ﾃｽﾄ画像|ＡＢＣ;ﾃｽﾄ;ｶﾒﾗ/IMG_001;画像;猫|犬;ＡＢＣ;Ａ４サイズ;赤|青|黄;ねこ;テスト;第１回;データ;ﾃﾞｰﾀ 1;"
        "東京;花火;お皿;車①|車②;商品画像_001;ｶﾀﾛｸﾞ写真;ＮＥＷ|ｾｰﾙ;正面|背面;机|椅子;カメラ;ロゴ;白い皿;大阪|名古屋;"
        "２階"
    ),
    "gbk": (
        "红|黄|蓝;红色;猫|狗;大|中|小;图1;图;测试;照片;茶杯;正面|背面;主图|详情;黑色 XL|白色 XL;一|二|三;上海;杯子;"
        "车|船|飞机;绿|白|黑;灯;手机壳;效果图;蓝色 S|粉色 M;苹果|香蕉;左|右;广州;样品１"
    ),
    "cp1252": ("10€;Preis 5 €|Größe;Foto – Berlin;l’été"),
    "cp1251": ("Київ|їжак;ЛЬВІВ;Україна|дід"),
    "cp852 cp1250": (
        "ŁÓDŹ;ŻÓŁW;ŽIDLE|STŮL;łąka;KRZESŁO;Příbor;Plzeň;sól|chleb żytni;ČESKO;Győr;kőris;WĄŻ;Gdańsk;"
        "mała szafka|duża szafka;KOŇ|KRÁVA;červená;ŚWIECA"
    ),
    "cp737 cp1253": ("ΦΩΤΟ;ΑΘΗΝΑ|ΓΑΤΑ;γάτα;ΣΠΙΤΙ;Κρήτη;σκύλος"),
    "cp949": (
        "빨강|노랑;사진;앞|뒤;테스트;컵|책;빨간색;서울;고양이;시계;파랑;자동차;정면|측면;흰색|검정;꽃병;"
        "강아지 1|강아지 2"
    ),
    "cp950": ("紅|黃|藍;測試;照片;貓|狗;正面|背面;杯子;台北;綠|白;香港;椅子|桌子;蘋果;效果圖"),
}
"""Code pages -> zips of short names, with signs or in capitals: names with `|` between, zips with `;`."""


def zips(size: int) -> list[tuple[str, list[str], list[bytes]]]:
    """Zips of so many names of one language: (code page, names, their bytes), where those are not UTF-8."""
    found = []
    for pages, listed in CORPUS.items():
        names = listed.split("|")
        for page in pages.split():
            for start in range(len(names) if size <= len(names) else 0):
                chosen = (names + names)[start : start + size]
                raw = [name.encode(page) for name in chosen]
                if not all(_is_utf8(name) for name in raw):
                    found.append((page, chosen, raw))
    return found


def _is_utf8(name: bytes) -> bool:
    try:
        return bool(name.decode()) or True
    except UnicodeDecodeError:
        return False


@pytest.mark.parametrize(("size", "share"), [(1, 0.98), (2, 0.99), (5, 0.99)])
def test_accuracy(size, share) -> None:
    cases = zips(size)
    wrong = [(page, names, decode_names(raw)) for page, names, raw in cases if decode_names(raw) != names]
    assert len(cases) > 150 and 1 - len(wrong) / len(cases) >= share, wrong


@pytest.mark.parametrize(("pages", "listed"), CORPUS.items(), ids=CORPUS)
def test_twelve_names_of_any_language_are_enough(pages, listed) -> None:
    for page in pages.split():
        names = listed.split("|")[:12]
        assert decode_names([name.encode(page) for name in names]) == names


def test_short_names_signs_and_capitals_are_decoded() -> None:
    cases, wrong = 0, []
    for pages, listed in SHORT.items():
        for page, names in product(pages.split(), (one.split("|") for one in listed.split(";"))):
            raw = [name.encode(page, "ignore") for name in names]
            if [name.decode(page) for name in raw] == names and not all(map(_is_utf8, raw)):
                cases += 1
                if decode_names(raw) != names:
                    wrong.append((page, names, decode_names(raw)))
    assert cases > 450 and 1 - len(wrong) / cases >= 0.94, wrong


@given(st.lists(st.text(st.characters(codec="utf-8", max_codepoint=0x3FFFF)), max_size=8))
def test_utf8_is_kept(names) -> None:
    assert decode_names([name.encode() for name in names]) == names


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=8))
def test_any_bytes_are_decoded(names) -> None:
    found = decode_names(names)
    assert len(found) == len(names)
    for name, text in zip(names, found, strict=True):
        text.encode()  # no lone surrogates
        assert not name.isascii() or text == name.decode()


def test_names_in_ascii_do_not_matter() -> None:
    raw = ["фото/кот.png".encode("cp1251"), *(f"IMG_{number}.jpg".encode() for number in range(300))]
    assert decode_names(raw)[0] == "фото/кот.png" and decode_names(raw)[7] == "IMG_6.jpg"


def test_two_bytes_that_happen_to_be_utf8_are_used_for_the_detection() -> None:
    names = ["컵.jpg", "책.jpg"]
    raw = [name.encode("cp949") for name in names]
    assert raw[1].decode() == "å.jpg" and decode_names(raw) == names


def test_a_name_truncated_within_a_character_does_not_change_the_others() -> None:
    names = ["新しいフォルダ/ソファ.png", "写真/家族.jpg", "資料/表.png"]
    raw = [name.encode("cp932") for name in names]
    assert decode_names([*raw, "写真/家族".encode("cp932")[:-1]])[:3] == names


def test_utf8_names_among_others_are_kept() -> None:
    mixed = ["新建文件夹/图片.jpg".encode("gbk"), "北京/猫.jpg".encode(), "北京/狗.jpg".encode("gbk")]
    assert decode_names(mixed) == ["新建文件夹/图片.jpg", "北京/猫.jpg", "北京/狗.jpg"]


def test_detection_from_very_many_names_is_quick_and_independent_of_order() -> None:
    raw = [f"新しいフォルダ{number}/写真{number}.png".encode("cp932") for number in range(20_000)]
    random.Random(0).shuffle(raw)
    assert detect_page(raw) == "cp932"
    assert detect_page([b"\xff\xa0" * 1_000_000]) in PAGES
