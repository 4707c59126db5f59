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

from clearseek.audit.evidence import Evidence
from clearseek.audit.read.card import Document, shorten
from clearseek.audit.read.parts import Block

Kind = Literal["model", "data set", "space", "collection", "code", "owner"]
Kin = Literal["same", "form", "variant", ""]
NAMELESS: Final = "this model"
"""Name of a model that nothing names."""
_MOST: Final = 2_000
"""Repositories of a document that are looked at."""

_HUBS: Final = ("huggingface.co", "hf.co", "hf-mirror.com", "modelscope.cn", "modelscope.ai", "wisemodel.cn")
_FORGES: Final = ("github.com", "gitlab.com", "gitee.com", "codeberg.org", "raw.githubusercontent.com", "bitbucket.org")
_NO_OWNERS = re.compile(
    r"docs|blog|papers|learn|tasks|join|login|settings|pricing|chat|organizations|new|api|course|front|posts|"
    r"terms-of-service|privacy|enterprise|inference-endpoints|topics|features|sponsors|marketplace|about|apps|"
    r"notifications|trending|explore|search|models|datasets|spaces|collections|orgs|users|home|my|studios"
)
_NO_REPOSITORY = re.compile(
    r"path|models|model|checkpoints|checkpoint|output|outputs|ckpt|ckpts|weights|results|runs|data|local|tmp|"
    r"your|username|user|my|org|owner|dir|src"
)
"""Beginnings of paths on a disk."""
_ADDRESS = re.compile(
    r"(?:https?://|git@|ssh://git@)?(?:www\.)?(?P<host>[a-z0-9-]+(?:\.[a-z0-9-]+){1,3})[:/]+(?P<path>[^\s?#]{0,400})",
    re.I,
)
_NAME: Final = r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
_CALLS = re.compile(
    rf"(?:from_pretrained|snapshot_download|hf_hub_download|load_model|pipeline|LLM|AutoModel\w{{0,40}})\("
    rf"[^()\n]{{0,120}}?[\"']{_NAME}[\"']"
)
_COMMANDS = re.compile(
    r"(?:(?:huggingface-cli|hf|modelscope) download|vllm serve|--model(?:[-_](?:name|path|id|name[-_]or[-_]path))?[= ]"
    rf"|--model-path[= ])\s{{0,4}}(?:--?[\w-]{{1,40}} )?[\"']?{_NAME}(?![\w/.-])"
)
_ASSIGNED = re.compile(
    rf"\b(?:model|repo|checkpoint|pretrained)\w{{0,30}}\s?(?::\s?str\s?)?[=:]\s?[\"']{_NAME}[\"']", re.I
)
_WRITTEN = re.compile(
    r"(?<![\w./@-])(?:https?://|git@)?(?:www\.)?(?:" + "|".join(map(re.escape, (*_HUBS, *_FORGES)))
    + r")[:/][\w./-]{1,200}"
)  # fmt: skip

_TOKEN = re.compile(r"[^\W_]+(?:\.[^\W_]+)*")
_SIZE = re.compile(r"(?:\d+x)?\d+(?:\.\d+)?[bm]|a\d+(?:\.\d+)?b|\d+e")
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
    r"disclaimer|announcement|general|purpose|in|code|logo|banner|image|模型介绍|介绍|简介|目录|模型|概述"
)
_LEADING = re.compile(
    r"(?:(?:the )?(?:official )?(?:model ?card|read ?me|(?:code|repo|repository|implementation)) (?:for|of|:)|model ?card:?"
    r"|welcome to|introducing|introduction(?: to| of|:)|announcing|overview(?: of|:)|about|meet|release of) ?",
    re.I,
)
_TRAILING = re.compile(
    r" (?:model ?card|read ?me|models?|series|family|(?:large )?language models?|llms?|collection|release|technical report)$",
    re.I,
)
_PARTS = re.compile(r": |：| [-–—|] | \(|（|, (?=an? )| [–—]|, (?=\w+ \w+ \w+)")
_LIST = re.compile(r", (?:and )?| and | & |/| / |、|和")
_INTRODUCED = re.compile(
    r"^(?P<name>[A-Z][\w.+-]{1,40}(?: [A-Z0-9][\w.+-]{0,30}){0,3}) (?:is|are) (?:an?|the|our|fully)\b"
    r"|\b(?:introduce|present|release|announce)s? (?P<named>[A-Z][\w.+-]{1,40}(?: [A-Z0-9][\w.+-]{0,30}){0,2})(?=[,. :(])"
)
_OTHERS = re.compile(
    r"\b(?:thank|acknowledg|inspired by|built (?:up)?on|based on|follow(?:ing|s)?\b|adapted from|borrow|fork(?:ed)? (?:of|from)"
    r"|derived from|fine-?tuned (?:from|on|version)|finetun\w+ (?:from|version)|initiali[sz]ed|teacher|distill?(?:ed|ation)"
    r"|compared? (?:to|with)|outperform|third[- ]party|community|unofficial|such as|base model|credits?|related|previous"
    r"|another model|quantiz|quantis|converted by|contributed|supported by|e\.g\.)",
    re.I,
)
"""Words about the work of others."""
_OURS = re.compile(r"\bour (?:own )?(?:\w+ ){0,3}(?:code|repo\w*|weights|models?|checkpoints?|github|implementation|page)\b"
                   r"|\b(?:weights|models?|checkpoints?) (?:are|is) (?:\w+ ){0,3}(?:at|on|here|from)\b", re.I)  # fmt: skip
_STEM = re.compile(r"[^a-z0-9]+")
_ORGANISED = re.compile(r"(?:ai|labs?|inc|org|lm|llm|nlp|research|team|hq|community|official|hub|group|project)+$")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository that a document links to, clones or loads."""

    kind: Kind
    owner: str
    name: str
    place: Evidence
    others: bool = False
    """Whether the words around it are about the work of others."""
    ours: bool = False
    """Whether they say that it is the authors' own."""


def read_address(target: str) -> tuple[Kind, str, str] | None:
    """Kind, owner and name of the repository that a web address or a git address leads into; None for any other."""
    match = _ADDRESS.match(target)
    if match is None:
        return None
    host = match["host"].lower()
    parts = [each for each in match["path"].split("/") if each][:4]
    if host in _FORGES:
        if parts[:1] == ["orgs"]:
            parts = parts[1:]
        kind: Kind = "code"
    elif host in _HUBS:
        kinds: dict[str, Kind] = {
            "datasets": "data set",
            "spaces": "space",
            "collections": "collection",
            "models": "model",
        }
        kind = kinds.get(parts[0].lower(), "model") if parts else "model"
        parts = parts[1:] if parts and parts[0].lower() in kinds else parts
    else:
        return None
    if not parts or _NO_OWNERS.fullmatch(parts[0].lower()):
        return None
    if len(parts) == 1:
        return "owner", parts[0], ""
    return kind, parts[0], re.sub(r"\.git$", "", parts[1].rstrip(".,;:)"))


def repositories(document: Document) -> Iterator[Repository]:
    """The repositories that a document links to, and those in its commands and programs."""
    about: dict[int, str] = {}
    for block in document.blocks:
        for sentence in block.sentences:
            for link in sentence.links:
                about[link.line] = about.get(link.line, "") + " " + sentence.text
    seen: set[tuple[int, str, str]] = set()
    headings = document.headings
    for link in islice(document.links, _MOST):
        if picture := read_address(link.image):
            seen.add((link.line, *picture[1:]))
        if link.target == link.image or (found := read_address(link.target)) is None:
            continue
        seen.add((link.line, found[1], found[2]))
        words = about.get(link.line, "")[:2000] + " " + " ".join(headings[link.line - 1][1:]) + " " + link.text
        place = Evidence(document.file, f"line {link.line}", link.target, document.sha256)
        yield Repository(*found, place, bool(_OTHERS.search(words)), bool(_OURS.search(words)))
    count = 0
    for number, line in enumerate(document.lines, 1):
        if "/" not in line or count > _MOST:
            continue
        for found in written(line):
            if (number, *found[1:]) not in seen:
                count += 1
                yield Repository(*found, document.at(number, shorten(line.strip())))


def written(line: str) -> Iterator[tuple[Kind, str, str]]:
    """Repositories that a line of a program or a shell names."""
    for match in islice(_WRITTEN.finditer(line), 20):
        if found := read_address(match[0]):
            yield found
    for pattern in (_CALLS, _COMMANDS, _ASSIGNED):
        for match in islice(pattern.finditer(line), 20):
            owner, _, name = match["repo"].partition("/")
            if not _NO_REPOSITORY.fullmatch(owner.lower().strip("._-")) and "." not in owner:
                yield "model", owner, name


def normalise(name: str) -> str:
    """A name as it is compared: letters, digits and dots alone."""
    return re.sub(r"[^\w.]|_", "", name.lower())


def kin(found: str, wanted: str) -> Kin:
    """What a name is to a model's name: the same (or a size or state of it), a form of storage, a variant, or nothing.

    ``Foo-7B`` and ``Foo-Chat`` are the same as ``Foo``, ``Foo-GGUF`` is a form of it; ``Foo-34B-200K`` is a variant of
    ``Foo-34B``, and ``Foobar`` is nothing to it.
    """
    if not (key := normalise(wanted)) or not normalise(found).startswith(key):
        return ""
    place, left = 0, len(key)
    while left and place < len(found):
        left -= len(normalise(found[place])) > 0
        place += 1
    rest = found[place:].lower()
    if rest and rest[0].isalnum() and not re.match(r"[-_ ]?(?:\d|v\d)", rest):
        return ""
    if (rest[:1].isdigit() and key[-1].isdigit()) or re.match(r"\.\d", rest):
        return ""
    tokens = _TOKEN.findall(rest.replace("_", " "))
    sized = bool(_SIZE.search(" ".join(_TOKEN.findall(wanted.lower()))))
    result: Kin = "same"
    for token in tokens:
        if _KINDS.fullmatch(token) or (not sized and (_SIZE.fullmatch(token) or _VERSION.fullmatch(token))):
            continue
        if re.fullmatch(r"\d{4,8}", token) or (not re.search(r"\d", wanted) and re.fullmatch(r"\d+k", token)):
            continue
        if not _FORM.fullmatch(token):
            return "variant"
        result = "form"
    return result


def stem(owner: str) -> str:
    """An owner's name without what makes it an organisation's: ``deepseek-ai`` and ``QwenLM`` are deepseek and qwen."""
    bare = _STEM.sub("", owner.lower())
    return _ORGANISED.sub("", bare) or bare


def title_names(title: str) -> list[str]:
    """Names in a card's first heading: mostly one; none where it is a heading as any card has."""
    text = re.sub(r"[^\w\s.,:;()/&+'’\-–—|（）：、]", " ", title)
    text = " ".join(text.split()).strip(" .-–—:|")
    text = _LEADING.sub("", text, count=1) if _LEADING.match(text) else text
    text = _PARTS.split(text, maxsplit=1)[0]
    for _ in range(2):
        text = _TRAILING.sub("", text)
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
    models = [each for each in found if each.kind == "model" and f"{each.owner}/{each.name}".lower() not in bases]
    title, origin = (([given], "") if given else _from_card(card, metadata, models)) or ([], "")
    if not title:
        name, origin = _from_config(config)
        return Identity(name or NAMELESS, (), origin, (), _makers(found, (), owner))
    wanted = title[0]
    linked = Counter(each.name for each in models if not each.others and kin(each.name, wanted) == "same")
    family = list(dict.fromkeys([*title[1:], *linked]))
    exact = [each for each in family if normalise(each) == normalise(wanted)]
    members = [each for each in family if each not in exact]
    if given or exact or len(title) > 1 or not members:
        chosen = wanted
        if len(title) > 1 and not given:
            chosen = _of_size([wanted, *members], parameters) or wanted
    else:
        chosen = _of_size(members, parameters) or max(members, key=lambda each: linked[each])
    others = () if given else tuple(each for each in [wanted, *members] if normalise(each) != normalise(chosen))
    own = [chosen, *exact] + ([wanted] if len(title) == 1 else [])
    siblings = tuple(each for each in others if each not in own)
    return Identity(chosen, tuple(dict.fromkeys(own)), origin, siblings, _makers(found, tuple(own), owner))


def _from_card(card: Document | None, metadata: dict[str, Any], models: list[Repository]) -> tuple[list[str], str]:
    """The names that the card gives its model, the first way that gives any, and which way that was."""
    for key in ("model_name", "model_id"):
        if names := [each.rpartition("/")[2] for each in _texts(metadata.get(key))]:
            return names[:1], f"the card's metadata ({key})"
    blocks = card.blocks if card is not None else []
    headings = [block for block in blocks if block.kind == "heading"]
    top = min((len(block.headings) for block in headings), default=0)
    for block in [each for each in headings[:3] if len(each.headings) == top]:
        if names := _title(block, models):
            return names, f"the card's heading in line {block.line}"
    index = metadata.get("model-index")
    if isinstance(index, list) and index and isinstance(index[0], dict) and (names := _texts(index[0].get("name"))):
        return names[:1], "the card's metadata (model-index)"
    keys = {normalise(each.name) for each in models}
    for link in islice(card.links if card is not None else (), 3):  # a logo for a title
        if link.image == link.target and normalise(link.text) in keys:
            return [link.text], f"the picture in the card's line {link.line}"
    for block in [each for each in blocks[:80] if each.kind == "paragraph"][:6]:
        if match := _INTRODUCED.search(block.text[:600]):
            name = match["name"] or match["named"]
            if not is_generic(name) and name.split()[0] not in ("This", "It", "These", "Here", "There", "We", "The"):
                return [name], f"the card's line {block.line}"
    linked = Counter(each.name for each in models if not each.others) or Counter(each.name for each in models)
    return ([linked.most_common(1)[0][0]], "the repository that the card links most") if linked else ([], "")


def _title(block: Block, models: list[Repository]) -> list[str]:
    """Names in a heading; of a long one, the words that a linked repository is called after."""
    if names := title_names(block.text):
        return names
    words = block.text.split()[:40]
    spoken = {"".join(words[place : place + size]) for place in range(len(words)) for size in (1, 2, 3)}
    keys = {normalise(each.strip(".,:;()")) for each in spoken}
    return [each.name for each in models if len(normalise(each.name)) > 2 and normalise(each.name) in keys][:1]


def _from_config(config: dict[str, Any]) -> tuple[str, str]:
    path = config.get("_name_or_path")
    name = path.rstrip("/").rpartition("/")[2] if isinstance(path, str) else ""
    if name and len(name) < 97 and re.fullmatch(r"[\w.-]+", name) and re.search(r"[a-z]", name, re.I):
        if not is_generic(re.sub(r"[\W\d_]+", " ", name)) and not re.match(
            r"(?:checkpoint|ckpt|step|iter|epoch)", name
        ):
            return name, "config.json (_name_or_path)"
    architectures = config.get("architectures")
    kinds = architectures if isinstance(architectures, list) else [config.get("model_type")]
    if kinds and isinstance(kinds[0], str) and kinds[0]:
        name = re.sub(r"(?:LMHead|For[A-Z]\w+|Model)+$", "", kinds[0])[:97]
        return f"a model of kind {name}", "config.json, which says only its kind"
    return "", "nothing names it"


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [each.strip()[:200] for each in values[:50] if isinstance(each, str) and each.strip()]


def _of_size(names: Iterable[str], parameters: float) -> str:
    """The name that says this many parameters; empty where none or several do."""
    fitting = []
    for name in names:
        sizes = [float(each[1]) * {"b": 1e9, "m": 1e6}[each[2]]
                 for each in re.finditer(r"(?<![\w.])(\d{1,4}(?:\.\d{1,3})?)([bm])\b", name.lower())]  # fmt: skip
        if sizes and parameters and 0.8 < parameters / sizes[0] < 1.25:
            fitting.append(name)
    return fitting[0] if len(fitting) == 1 else ""


def _makers(found: tuple[Repository, ...], names: tuple[str, ...], owner: str) -> frozenset[str]:
    """Who owns the repositories that are called after the model, each counted once."""
    if owner:
        return frozenset({stem(owner)})
    votes: Counter[str] = Counter()
    for who, name, others, ours in {(each.owner, each.name, each.others, each.ours) for each in found}:
        closest = {kin(name, each) for each in names} if name else set()
        exact = bool(name) and any(normalise(name) == normalise(each) for each in names)
        vote = 8 if exact else 4 if "same" in closest else 1 if closest & {"form", "variant"} else 0
        root = stem(who)
        vote += 4 * (len(root) > 2 and any(normalise(each).startswith(root) for each in names))
        votes[root] += (vote // 2 if others else vote) + 4 * (ours and not others)
    most = max(votes.values(), default=0)
    return frozenset(who for who, count in votes.items() if count >= 4 and count * 2 >= most)
