"""Which model a release is about, and who made it: by what its card says and links, never by a folder's name.

A card names its model in its metadata or its first heading, and links to where the weights are. A card of a family
names several; then the one that its links and sizes speak for is taken, and the others are told, so that a reader can
choose. The maker is the owner of the repositories that are called after the model. A tool, a teacher, a base model and
somebody's quantised copy are linked as well, so a link alone makes nobody the maker.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal

from clearseek.reading.card import Document
from clearseek.reading.repositories import Repository

Kin = Literal["same", "form", "variant", ""]
NAMELESS: Final = "this model"
"""Name of a model that nothing names."""
_TOKEN = re.compile(r"[^\W_]+(?:\.[^\W_]+)*")
SIZE = re.compile(r"(?:\d+x)?\d+(?:\.\d+)?[bm]|a\d+(?:\.\d+)?b|\d+e")
_INNER_SIZE = re.compile(r"[-_](?:\d+x)?\d+(?:\.\d+)?[bm](?=[-_])", re.I)
_VERSION = re.compile(r"v?\d+(?:\.\d+)*")
_KINDS = re.compile(
    r"base|chat|instruct|it|pt|pretrain|pretrained|sft|dpo|rl|rlhf|hf|final|preview|release|main|model|models|"
    r"weights|ckpt|checkpoint|llm|lm|moe|dense|en|zh|multilingual|stage1|stage2|stage3|tiny|mini|small|medium|"
    r"large|xl|xxl|nano"
)
"""Parts of a repository's name that say which of the model's own states or sizes it is."""
_FORM = re.compile(
    r"gguf|ggml|awq|gptq|mlx|onnx|exl\d|exllama\w*|bnb|fp\d+|bf16|nvfp4|mxfp4|int\d|\d-?bits?|w\d+a\d+|q\d\w*|openvino|"
    r"safetensors|dynamic|static|quantized|quant|coreml|tflite|litert|[km]|\d"
)
"""Parts that say how the same numbers are stored."""
_GENERIC = re.compile(
    r"model|models|card|cards|readme|introduction|introducing|overview|about|details|description|summary|table|"
    r"of|contents|news|updates|update|license|licence|quick|start|getting|started|usage|highlights|abstract|"
    r"the|a|an|and|for|llm|llms|language|large|official|repository|repo|release|information|documentation|home|"
    r"project|welcome|to|key|features|feature|how|use|our|this|is|it|with|installation|requirements|background|"
    r"what|new|series|family|open|source|inference|evaluation|results|training|data|demo|citation|contact|"
    r"disclaimer|announcement|general|purpose|in|code|logo|banner|image|performance|benchmarks?|change(?:s|log)|"
    r"roadmap|history|faq|status|we|work|experiments|[ivx]{1,4}|模型介绍|介绍|简介|目录|模型|概述|更新日志|性能|评测"
)
_LEADING = re.compile(
    r"(?:(?:the )?(?:official )?(?:model ?card|read ?me|code|repo|repository|implementation) (?:for|of|:)|model ?card:?"
    r"|what (?:is|are)|welcome to|introducing|introduction(?: to| of|:)|announcing|overview(?: of|:)|about|meet"
    r"|release of) ?",
    re.I,
)
_PARTS = re.compile(r":\s|\uff1a| [-\u2013\u2014|] | \(|\uff08|, (?=an? )| [\u2013\u2014]|, (?=\w+ \w+ \w+)")
_LIST = re.compile(r", (?:and )?| and | & |/| / |、|和")
_BY_LINKS: Final = "the repository that the card links most"
_NEWS = re.compile(
    r"(?<!official )(?<!the )\b(?:released|launched|announc\w+|(?:is|are) (?:out|here|live|available|now)"
    r"|now (?:available|open|live)|(?:has|have) (?:moved|been)|moved to)\b"
    r"|启动|发布|上线|已开源|更新啦|verfügbar|disponible|公開しました", re.I
)  # fmt: skip
"""Says in a heading what is new, so that it is no title."""
_ODD = re.compile(r"[^\w\s.,:;()/&+'\u2019\u2013\u2014|\uff08\uff09\uff1a、-]")
"""What no name has: emoji, marks, quotes."""
_INTRODUCED = re.compile(
    r"^(?P<name>[A-Z][\w.+-]{1,40}(?: [A-Z0-9][\w.+-]{0,30}){0,3}) (?:is|are) (?:an?|the|our|fully)\b"
    r"|\b(?:introduce|present|release|announce)s? (?P<named>[A-Z][\w.+-]{1,40}(?: [A-Z0-9][\w.+-]{0,30}){0,2})"
    r"(?=[,. :(])"
)
_PRONOUN = re.compile(r"(?:This|It|These|Here|There|We|The|Our|You|They|All|Both|What|If|In|For)\b")
_EARLY: Final = 4
"""Blocks at the beginning of a card, where a heading is its title."""
_WORDS = re.compile(r"[-_.\s]+|(?<=[a-z])(?=[A-Z])")
_ORGANISED = re.compile(r"ai|labs?|inc|org|ll?m|nlp|research|team|hq|community|official|hub|group|project|dm", re.I)
_ENDING = re.compile(r"(?<=.{5})(?:ai|labs?|research|team)$")


STATE = re.compile(
    r"-(?:intermediate-)?(?:step|iter|ckpt|checkpoint)s?-?\d[\w.]{0,12}(?:-\d{1,5}(?:\.\d)?[bt](?:-?tokens)?)?",
    re.I,
)
"""A state of a model while it was trained, in a name: ``-intermediate-step-240k-503b``."""


def normalise(name: str) -> str:
    """A name as it is compared: letters, digits and dots alone."""
    return re.sub(r"[^\w.]|_", "", name.lower())


def kin(found: str, wanted: str) -> Kin:
    """What a name is to a model's name: the same (or a size or state of it), a form of storage, a variant, or nothing.

    ``Foo-7B`` and ``Foo-Chat`` are the same as ``Foo``, ``Foo-GGUF`` is a form of it; ``Foo-34B-200K`` is a variant of
    ``Foo-34B``, and ``Foobar`` is nothing to it.
    """
    sizes = [SIZE.findall(" ".join(_TOKEN.findall(each.lower()))) for each in (found, wanted)]
    if sizes[0] == sizes[1] != [] and len({normalise(SIZE.sub("", each.lower())) for each in (found, wanted)}) == 1:
        return "same"  # Foo-7B-Chat and FooChat 7B
    sized = bool(sizes[1])
    if not sized and wanted.count("-"):  # of Foo-4-32B-0414 and Foo-4-0414 the size may stand anywhere
        found = _INNER_SIZE.sub("", found)
    if not (key := normalise(wanted)) or not normalise(found).startswith(key):
        return ""
    place, left = 0, len(key)
    while left and place < len(found):
        left -= len(normalise(found[place])) > 0
        place += 1
    rest = found[place:].lower()
    if rest and rest[0].isalnum() and not re.match(r"v?\d", rest):
        return ""
    if (rest[:1].isdigit() and key[-1].isdigit()) or (key[-1].isdigit() and re.match(r"\.\d", rest)):
        return ""
    tokens = _TOKEN.findall(STATE.sub("", rest.replace("_", "-")))
    result: Kin = "same"
    for token in tokens:
        if _KINDS.fullmatch(token) or (not sized and (SIZE.fullmatch(token) or _VERSION.fullmatch(token))):
            continue
        if re.fullmatch(r"\d{4,8}", token) or (not re.search(r"\d", wanted) and re.fullmatch(r"\d+k", token)):
            continue
        if not _FORM.fullmatch(token):
            return "variant"
        result = "form"
    return result


def stem(owner: str) -> str:
    """An owner's name without what makes it an organisation's: ``deepseek-ai`` and ``QwenLM`` are deepseek and qwen."""
    words = [each for each in _WORDS.split(owner) if each]
    while len(words) > 1 and _ORGANISED.fullmatch(words[-1]):
        words.pop()
    return _ENDING.sub("", re.sub(r"[^a-z0-9]", "", "".join(words).lower()))


def title_names(title: str) -> list[str]:
    """Names in a card's first heading: mostly one; none where it is a heading as any card has."""
    text = " ".join(_ODD.sub(" ", title).split()).strip(" .-\u2013\u2014:|")
    text = re.sub(r"^(?:the|our) ", "", _LEADING.sub("", text, count=1) if _LEADING.match(text) else text, flags=re.I)
    text = _PARTS.split(text, maxsplit=1)[0]
    words = text.split()
    while len(words) > 1 and is_generic(words[-1]):
        words.pop()
    text = re.sub(r"[-_](?:series|family|models?|suite)$", "", " ".join(words), flags=re.I)
    listed = [each.strip(" .,") for each in _LIST.split(text)]
    names = listed if len(listed) > 1 and all(re.search(r"\d", each) for each in listed) else [text.strip(" .,")]
    return [each for each in names if each and len(each) <= 60 and len(each.split()) <= 6 and not is_generic(each)]


def is_generic(text: str) -> bool:
    """Whether a heading's words are those of any card."""
    return all(_GENERIC.fullmatch(word) or word.isdigit() for word in re.findall(r"\w+", text.lower()))


@dataclass(frozen=True, slots=True)
class Identity:
    """A model's name and its maker."""

    name: str
    names: tuple[str, ...]
    """All names under which the documents speak of this model."""
    origin: str
    """Where the name is from, in words."""
    siblings: tuple[str, ...]
    """Other models that the card could be about."""
    makers: frozenset[str]
    """Stems of the owners of its repositories (:func:`stem`)."""


def identify(
    card: Document | None, metadata: dict[str, Any], found: tuple[Repository, ...], config: dict[str, Any],
    given: str = "", owner: str = "", parameters: float = 0,
) -> Identity:  # fmt: skip
    """Find out which model a release is about.

    Args:
        card: Its card.
        metadata: The card's metadata.
        found: Repositories that its documents name.
        config: Its config.json.
        given: A name that is known: the user's, or that of the repository on the hub.
        owner: The repository's owner, where it is known.
        parameters: How many the model has, where that is known.
    """
    bases = {each.lower() for each in _texts(metadata.get("base_model"))}
    available = [each for each in found if f"{each.owner}/{each.name}".lower() not in bases]
    models = [each for each in available if each.kind == "model"]
    title, origin = ([given], "") if given else _from_card(card, metadata, available)
    if not title:
        name, origin = _from_config(config)
        return Identity(name or NAMELESS, (), origin, (), _makers(found, (), owner))
    wanted = title[0]
    linked = Counter(each.name for each in models if not each.others and kin(each.name, wanted) == "same")
    exact = [each for each in dict.fromkeys([*title[1:], *linked]) if normalise(each) == normalise(wanted)]
    members = [each for each in dict.fromkeys([*title[1:], *linked]) if each not in exact]
    chosen = wanted
    if len(title) > 1 and not given:
        chosen = _of_size([wanted, *members], parameters) or wanted
    elif members and not exact and not given:
        chosen = _of_size(members, parameters) or max(members, key=lambda each: linked[each])
    own = [chosen, *exact] + ([wanted] if len(title) == 1 else [])
    makers = _makers(found, tuple(own), owner)
    siblings = [each for each in [wanted, *members] if each not in own]
    if not exact or origin == _BY_LINKS:  # a family's name, or nobody's
        theirs = [each.name for each in models if not each.others and stem(each.owner) in makers]
        theirs = [each for each in dict.fromkeys(theirs) if each not in own and kin(each, chosen) != "form"]
        if len(theirs) > 1 or any(normalise(wanted) in normalise(each) for each in theirs) or exact:
            siblings = list(dict.fromkeys([*siblings, *theirs]))
    return Identity(chosen, tuple(dict.fromkeys(own)), origin, () if given else tuple(siblings), makers)


def _from_card(
    card: Document | None, metadata: dict[str, Any], found: list[Repository]
) -> tuple[list[str], str]:  # fmt: skip
    """The names that the card gives its model, and where: best one that a repository is called after as well."""
    for key in ("model_name", "model_id"):
        if names := [each.rpartition("/")[2] for each in _texts(metadata.get(key))]:
            return names[:1], f"the card's metadata ({key})"
    known = [each for each in found if each.kind in ("model", "code", "collection") and not each.others]
    said = [] if card is None else list(_said(card, known))
    for names, place in said:
        if any(kin(each.name, name) for name in names for each in known):
            return names, place
    index = metadata.get("model-index")
    if isinstance(index, list) and index and isinstance(index[0], dict) and (listed := _texts(index[0].get("name"))):
        return listed[:1], "the card's metadata (model-index)"
    if said:
        return said[0]
    models = [each for each in found if each.kind == "model"]
    linked = Counter(each.name for each in models if not each.others) or Counter(each.name for each in models)
    if not linked:  # programs of others are linked as well
        code = Counter(each.name for each in found if each.kind == "code" and not each.others).most_common(2)
        linked.update(dict(code[:1]) if code and code[0][1] >= 2 * sum(count for _, count in code[1:]) + 2 else {})
    return [name for name, _ in linked.most_common(1)], _BY_LINKS


def _said(card: Document, known: list[Repository]) -> Iterator[tuple[list[str], str]]:
    """Names that a card gives its model and where, the likeliest first: headings, a logo, a sentence about it."""
    headings = [block for block in card.blocks if block.kind == "heading"]
    top = min((block.level for block in headings), default=0)
    keys = {normalise(each.name) for each in known}
    pictured = {normalise(each.name) for each in known if each.kind != "code"}
    for block in [each for each in headings if each.level == top and not _NEWS.search(each.text)][:3]:
        place = f"the card's heading in line {block.line}"
        names = title_names(block.text)
        if any(kin(each.name, name) for each in known for name in names):
            yield names, place
        words = [each.strip(".,:;()!?") for each in block.text.split()[:40]]
        spoken = (" ".join(words[at : at + size]) for size in (3, 2, 1) for at in range(len(words)))
        if whole := next((each for each in spoken if len(normalise(each)) > 1 and normalise(each) in keys), ""):
            yield [whole], place
        if names and block in card.blocks[:_EARLY]:
            yield names, place
    for link in islice(card.links, 3):
        if link.image == link.target and normalise(link.text) in pictured:
            yield [link.text], f"the picture in the card's line {link.line}"
    for block in [each for each in card.blocks[:80] if each.kind == "paragraph"][:6]:
        for match in islice(_INTRODUCED.finditer(block.text[:600]), 3):
            name = match["name"] or match["named"]
            if not is_generic(name) and not _PRONOUN.match(name):
                yield [name], f"the card's line {block.line}"


def _from_config(config: dict[str, Any]) -> tuple[str, str]:
    path = config.get("_name_or_path")
    name = path.rstrip("/").rpartition("/")[2] if isinstance(path, str) else ""
    named = re.fullmatch(r"(?!checkpoint|ckpt|step|iter|epoch)[\w.-]{1,96}", name) and re.search(r"[a-z]", name, re.I)
    if named and not is_generic(re.sub(r"[\W\d_]+", " ", name)):
        return name, "config.json (_name_or_path)"
    architectures = config.get("architectures")
    kinds = architectures if isinstance(architectures, list) else [config.get("model_type")]
    if kinds and isinstance(kinds[0], str) and kinds[0]:
        name = re.sub(r"(?:LMHead|For[A-Z]\w+|Model)+$", "", kinds[0])[:97]
        return f"a model of kind {name}", "config.json, which says only its kind"
    return "", "nothing names it"


def _texts(value: object) -> list[str]:
    values = value[:50] if isinstance(value, list) else [value]
    return [each.strip()[:200] for each in values if isinstance(each, str) and each.strip()]


def _of_size(names: Iterable[str], parameters: float) -> str:
    """The name that says this many parameters; empty where none or several do."""
    fitting = [
        name
        for name in names
        for each in islice(re.finditer(r"(?<![\w.])(\d{1,4}(?:\.\d{1,3})?)([bm])\b", name.lower()), 1)
        if 0.8 < parameters / max(float(each[1]) * {"b": 1e9, "m": 1e6}[each[2]], 1) < 1.25
    ]
    return fitting[0] if len(fitting) == 1 else ""


def _makers(found: tuple[Repository, ...], names: tuple[str, ...], owner: str) -> frozenset[str]:
    """Who owns the repositories that are called after the model, each counted once."""
    if owner:
        return frozenset({stem(owner)})
    votes: Counter[str] = Counter()
    mentions = Counter(stem(each.owner) for each in found if not each.others)
    for who, name, others, ours in {(each.owner, each.name, each.others, each.ours) for each in found}:
        root = stem(who)
        closest = {kin(name, each) for each in names} if name else set()
        vote = 4 if "same" in closest else 1 if closest & {"form", "variant"} else 0
        vote = 8 if name and normalise(name) in map(normalise, names) else vote
        vote += 4 * (len(root) > 2 and any(normalise(each).startswith(root) for each in names))
        votes[root] += (vote // 2 if others else vote) + 2 * (ours and not others)
    voted = {who: count + min(mentions[who], 8) for who, count in votes.items() if count >= 4}
    if voted:
        return frozenset(who for who, count in voted.items() if count * 2 >= max(voted.values()))
    shared = Counter(stem(each.owner) for each in {(each.owner, each.name): each for each in found
                                                   if each.kind == "model" and not each.others}.values())  # fmt: skip
    return frozenset(who for who, count in shared.items() if count > 1 and count * 2 > shared.total())
