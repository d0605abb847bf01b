"""Which language a text is in: by its script, and where many share one by the small words that each cannot do without.

A guess for statistics, not a classifier: of a text with few of those words it says `other`, of code mostly too. Codes
are ISO 639-1. Pure.
"""

# ruff: noqa: RUF001  (small words of languages that are written in Cyrillic)

from __future__ import annotations

import re
import unicodedata
from collections import Counter

MAX_CHARACTERS = 2000
"""Of a text that are looked at."""

UNKNOWN = "other"
LEAST_SHARE = 0.08
"""Of the words that must be small words of the language."""

# Names of scripts as Unicode has them, for the languages that have one of their own.
SCRIPTS = {
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "CJK": "zh",
    "ARABIC": "ar",
    "HEBREW": "he",
    "DEVANAGARI": "hi",
    "BENGALI": "bn",
    "TAMIL": "ta",
    "TELUGU": "te",
    "THAI": "th",
    "GREEK": "el",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy",
    "ETHIOPIC": "am",
    "KHMER": "km",
    "LAO": "lo",
    "MYANMAR": "my",
    "SINHALA": "si",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
}

SMALL_WORDS = {
    "en": "the of and to a in is that it for was on are as with his they at be this have from or had by not but what "
    "were we when your can there an which their if will about how you i my do please would",
    "de": "der die das und ist nicht ich sie es ein eine zu den mit sich auf für von dem im auch wie bei oder wir nach "
    "wird sind einen einer kann als wenn aus noch über habe hat ihr mein bitte",
    "fr": "le la les de des et est un une du que qui dans pour pas sur au avec ce il elle vous nous je ne se plus par "
    "sont cette mais ou ont aux ces être fait comme",
    "es": "el la los las de y que en un una por con para no se su es al lo como más del pero sus le ha este si porque "
    "esta son entre cuando muy sin sobre también me hay",
    "pt": "o a os as de e que em um uma por com para não se é do da no na mais dos das como mas ao ele pelo pela seu "
    "sua ou quando muito nos já também são você",
    "it": "il la le gli di e che in un una per con non si è del della dei delle al come più ma da nel alla sono anche "
    "questo ha lo ai o se cosa",
    "nl": "de het een en van ik te dat die in je niet is zijn op aan met als voor er maar om hem dan zou of wat mijn "
    "ook bij door naar wordt nog",
    "sv": "och att det som en på är av för med den till inte har de ett om jag var så men kan från vi när också ska",
    "da": "og at det som en på er af for med den til ikke har de et om jeg var så men kan fra vi når også skal hvad",
    "no": "og at det som en på er av for med den til ikke har de et om jeg var så men kan fra vi når også skal hva",
    "fi": "ja on ei se että hän oli ovat mutta kun tai niin joka olen minä sinä mitä myös ole kuin jos",
    "pl": "i w na z do się nie to jest że jak o po co ale za od tak czy przez przy dla są tego być już tylko",
    "cs": "a v na se je že s z do o ne to jako za by ale po pro jsem jsou který tak bylo nebo již",
    "ro": "și în de la cu nu pe că este un o din mai care pentru sunt dar ce ca sau fi al prin",
    "hu": "a az és hogy nem is egy ez van meg de ha mint csak már volt vagy kell mert azt",
    "tr": "ve bir bu için de da ile çok ne gibi daha olarak var ama o ben kadar mi değil ya",
    "vi": "và của là không có một cho được trong này với các người những đã để khi tôi bạn",
    "id": "yang dan di ini itu dengan untuk tidak dari dalam akan pada juga saya ke karena adalah ada bisa",
    "ru": "и в не на что я с он как это по но они мы все она так его за из у от же для вы бы есть",
    "uk": "і в не на що я з він як це по але вони ми та й до у за від для ви є або також",
    "bg": "и в не на че с за да се от е са по но като това които със ще към има до",
}
LISTS = {language: frozenset(words.split()) for language, words in SMALL_WORDS.items()}
WORD = re.compile(r"[^\W\d_]+")


def language_of(text: str) -> str:
    """ISO 639-1 code, or `other`."""
    text = text[:MAX_CHARACTERS]
    scripts = Counter() if text.isascii() else _scripts(text)
    letters = sum(scripts.values())
    if letters:
        named = [(count, script) for script, count in scripts.items() if script in SCRIPTS]
        # Japanese is written with Chinese characters between its own, and with fewer of these.
        kana = scripts["HIRAGANA"] + scripts["KATAKANA"]
        if kana and kana + scripts["CJK"] > letters / 2:
            return "ja"
        if named and max(named)[0] > letters / 2:
            return SCRIPTS[max(named)[1]]
    words = WORD.findall(text.lower())
    if not words:
        return UNKNOWN
    counts = {language: sum(word in small for word in words) for language, small in LISTS.items()}
    best = max(counts, key=lambda language: counts[language])
    return best if counts[best] >= max(1, LEAST_SHARE * len(words)) else UNKNOWN


def _scripts(text: str) -> Counter[str]:
    """Script -> letters of it."""
    found: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if character.isalpha():
            found[unicodedata.name(character, "LATIN").split(" ")[0].split("-")[0]] += count
    return found
