"""Whether confidence tells what a library holds from what it does not, and right hits from wrong ones.

    python benchmarks/answerability.py --data-dir DIR [--model NAME]

DIR holds Parquet files with the columns image (encoded bytes) and captions: `dev-*.parquet`, which the built-in encoder
has not seen and which are the library `dev`; `train-flickr8k.parquet` and `train-captions.parquet`, with which they are
`all`; and `train-classes.parquet`, whose captions name a class. Each question is put to n items drawn at random from
those that have nothing of its concept (absent), and again with as many in their place that answer it as there are among
all, at least one (present). Concepts are asked for by name, as "a photo of ..." and with captions and pictures of
`dev`; a caption's own picture is what answers it. Some questions are about what no photograph here shows.

Every other concept served to fit the coefficients of `ranking/confidence.py`, on all but `dev`: they are printed as
`fitted`; all other figures are of the rest. auroc tells present from absent by the confidence of the first hit;
auroc_cosine by its cosine, auroc_z by that in standard deviations of the library. auroc_right tells first hits that are
right from all other ones, ece is the expected calibration error of all hits, and ece_first of the first ones. The last
columns are shares of questions without a good match: of those whose first hit is right, of all that have an answer, and
of those that have none. `reliability` has, for hits of confidence 0 to .1, .1 to .2, ...: mean confidence, share that
is right, number. `growth` is by how much more the best of 10,000 items stands out than that of 1,000.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from report import report

from xsearch.encoders import DEFAULT_MODEL, Encoder, get_encoder
from xsearch.media.images import decode_image
from xsearch.probes import probe_texts
from xsearch.ranking.confidence import (
    BANK_SIZE,
    GOOD_MATCH,
    MEASURED_ITEMS,
    Background,
    among_themselves,
    bank_rows,
    confidence,
)
from xsearch.types import Embeddings, Kind, Modality

K = 10
SIZES = (10, 100, 1_000, 10_000)
SAMPLE = 1_000
CHUNK = 256

# After = what else a text may call it, or what is often seen with it: items whose texts hold only such a word are in no
# library.
CONCEPTS = """
dog=puppy,hound,poodle,terrier,collie,retriever,bulldog,greyhound,dachshund,rottweiler,canine,dalmatian,shepherd,beagle
cat=kitten,kitty|horse=pony,jockey,rodeo,equestrian,bronco|cow=bull,cattle,calf,steer,ox|sheep=lamb,ram|elephant
giraffe|zebra|bear
bird=pigeon,seagull,parrot,duck,goose,geese,swan,gull,owl,crow,rooster,chicken,hen,ostrich,pelican,penguin,eagle,hawk
camel|monkey=ape,gorilla|goat|tiger|butterfly|fish=shark,salmon,trout,fishing
car=vehicle,van,taxi,suv,automobile,jeep,racecar,truck,sedan,cab|truck=vehicle,lorry,van,jeep,pickup|bus
train=locomotive,subway,railroad,railway,rail,tram,trolley
motorcycle=motorbike,bike,motorcyclist,biker,scooter,moped,motocross,motor
bicycle=bike,cyclist,bicyclist,biker,biking,tricycle,cycling,bmx,cycle,bicycling
boat=ship,canoe,kayak,raft,sailboat,rowboat,vessel,ferry,yacht,motorboat,speedboat,boating
airplane=plane,jet,aircraft,aeroplane,airport,airliner|helicopter
kayak=canoe,raft,kayaker,rowboat,boat,kayaking,paddle|skateboard=skateboarder,skateboarding,skater,skate,skating
surfboard=surfer,surfing,surf,board,boogie,wakeboard|snowboard=snowboarder,snowboarding,board,snow|wheelchair
stroller=carriage,pram|sled=sledding,toboggan,sledge,sleigh,snow|ladder=climb|tent=camp,camping,campsite,canopy
kite=parasail|umbrella=parasol|balloon|guitar=guitarist,band,musician,instrument|drum=drummer,band,musician
violin=violinist,fiddle,instrument,orchestra,cello|saxophone=trumpet,instrument,horn,musician,flute
microphone=singer,sing,singing,mic,karaoke|basketball=hoop|football=rugby,soccer,tackle,quarterback
tennis=racket,racquet|baseball=bat,batter,pitcher,softball,umpire|volleyball|hockey=puck,rink,ice
frisbee=disc,disk,flying|swimming pool=pool,swim,swimming,swimmer|trampoline|swing=swinging,swingset
slide=sliding,slip|hurdle=bar,jump,obstacle|beach=sand,shore,ocean,sea,coast,seashore,surf,wave
waterfall=cascade,falls|river=stream,creek,rapids,canal,canoe,kayak,raft,rafting|lake=pond,water
mountain=mountainside,mountaintop,cliff,peak,hill,summit,rock,mountainous,hillside,alps,ridge|desert=dune,sand
forest=wood,woods,tree,jungle,wooded|snow=snowy,ski,snowboard,ice,winter,skier,skiing,sled
sunset=sunrise,dusk,sun,dawn,evening|bridge|fountain=sprinkler,spray|playground=swing,slide,jungle
church=cathedral,chapel,wedding,mosque,temple|kitchen=stove,oven,cook,refrigerator,cooking,counter
bathroom=toilet,bathtub,shower,restroom,tub,bath,sink,washroom,urinal|bed=bedroom,mattress,bunk
sofa=couch,loveseat,settee|bench|laptop=computer,notebook,macbook
telephone=phone,cellphone,mobile,smartphone,cell,iphone|television=tv,screen,monitor|clock=watch
book=novel,magazine,read,reading|newspaper=paper,read,reading|pizza|cake=cupcake,dessert
sandwich=burger,hamburger,panini,sub,bun|banana|apple|coffee=cup,mug,cafe,latte,espresso
beer=bottle,alcohol,bar,drink,pub,drinking|ice cream=icecream,cone,popsicle|salad=vegetable,lettuce
hat=cap,helmet,headgear,fedora,sombrero,beanie,visor,bonnet,hood,headdress,bandana|helmet
sunglasses=glasses,shades,goggles|mask=costume,masked|beard=bearded|tattoo=tattooed|bikini=swimsuit,bathing
backpack=pack,hiker,backpacker,hiking,bag,hike|bride=wedding,groom,bridal,marriage|baby=infant,toddler,newborn
police officer=police,policeman,cop,officer,policemen|clown=circus,costume|dancer=dance,dancing,ballet,ballerina
statue=sculpture,monument|graffiti=mural|flag|fire=flame,campfire,bonfire,firework,burning,torch,smoke|bubble
staircase=stair,steps,step,stairway|suitcase=luggage,bag,baggage|vase=flower|mirror=reflection
rope=climb,climber,leash,climbing,cord,harness,line|parade=marching
parachute=parasail,paraglide,parachuting,skydiver,paraglider|cigarette=smoke,smoking,cigar,smoker|sword=fencing,knife
boxing=boxer,box,ring,fight,glove|yoga|mud=muddy,dirt,puddle
"""

# No caption speaks of these; some are no pictures at all.
FOREIGN = """
democracy|quarterly revenue report|the meaning of life|asdf qwer zxcv|invoice number 20391|justice|a python stack trace
quantum chromodynamics|interest rates rise|how to install linux|lorem ipsum dolor sit amet|nostalgia|tax return 2019
the second law of thermodynamics|blorptang fizzwick|economic inflation|freedom of speech|an x-ray of a broken bone
a satellite in orbit|the surface of mars|a dna helix|an electron microscope image of a virus|a submarine under water
a nuclear power plant|a jellyfish|a coral reef|a dinosaur skeleton|a scorpion|an octopus|a stethoscope|an astronaut
a volcano erupting|a space shuttle|a circuit board|a pie chart|a microscope|a rhinoceros|a hippopotamus|a crocodile
a beehive|a periodic table|sheet music|a barcode|an MRI scan of a brain|a galaxy|a combine harvester|an oil rig
a sewing machine|a typewriter|a kangaroo|a koala|a panda|a peacock|a hedgehog|a squid|a lobster|a tarantula
"""

# Of `train-classes.parquet`: sets whose pictures show one thing, which their caption names.
OBJECTS = """
caltech101 nips2017_imagenet_like imagenet_synsets_ajs tiny_imagenet_64px sea_animals tf_flowers fruits_vegetables
"""


@dataclass(frozen=True, slots=True, eq=False)
class Captioned:
    """Pictures with their captions, all as vectors; `owner` (texts,) is the picture of each caption.

    `named` and `hinted` (concepts, texts) tell which captions name a concept, and which have any of its words.
    """

    pictures: Embeddings
    texts: Embeddings
    owner: NDArray[np.int64]
    named: NDArray[np.bool_]
    hinted: NDArray[np.bool_]

    def first(self, n: int) -> "Captioned":
        """Return the first n pictures with their captions."""
        m = int(np.searchsorted(self.owner, n))
        return Captioned(self.pictures[:n], self.texts[:m], self.owner[:m], self.named[:, :m], self.hinted[:, :m])

    def of_pictures(self, of_texts: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return (concepts, pictures) whether any caption of the picture does."""
        starts = np.searchsorted(self.owner, np.arange(len(self.pictures)))
        found: NDArray[np.bool_] = np.logical_or.reduceat(of_texts, starts, axis=1)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """`right` are the items that answer it, `clean` those that have nothing of it; all others are left out."""

    concept: int
    vector: NDArray[np.float32]
    right: NDArray[np.int64]
    clean: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Asking:
    """Questions of one modality to items of one kind; `bank` (m, items) are cosines with generic queries.

    It is None where the items are their own bank.
    """

    library: str
    asked: str
    modality: Modality
    kind: Kind
    items: Embeddings
    bank: NDArray[np.float32] | None
    questions: list[Question]

    @property
    def calibration(self) -> str:
        return f"{self.modality} to {self.kind}s"


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One question to one library of n items: its first K hits, and how the first stands out otherwise."""

    concept: int
    size: int
    n: int
    present: bool
    right: NDArray[np.bool_]
    standing: NDArray[np.float64]
    confidence: NDArray[np.float64]
    cosine: float
    z: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    options = parser.parse_args()
    encoder = get_encoder(options.model)
    dev = sorted(options.data_dir.glob("dev-*.parquet"))
    others = [options.data_dir / f"train-{name}.parquet" for name in ("captions", "flickr8k", "classes")]
    if not dev or not all(path.exists() for path in others):
        parser.error(f"dev-*.parquet and {', '.join(path.name for path in others)} must be in {options.data_dir}")
    everything = _captioned([*dev, *others[:2]], encoder)
    unseen = everything.first(sum(pq.read_metadata(path).num_rows for path in dev))
    askings = [
        *_askings("dev", unseen, unseen, encoder),
        *_askings("all", everything, unseen, encoder),
        _of_classes(others[2], encoder),
    ]
    rows: list[dict[str, object]] = []
    fitting: defaultdict[str, list[Trial]] = defaultdict(list)
    held_out: defaultdict[str, list[Trial]] = defaultdict(list)
    for asking in askings:
        trials = list(_trials(asking))
        told = [trial for trial in trials if trial.concept % 2]
        held_out[f"{asking.library}: {asking.calibration}"] += told
        by_size = {str(size): [trial for trial in told if trial.size == size] for size in SIZES} | {"all": told}
        rows += [_row(asking, items, of_size) for items, of_size in by_size.items() if of_size]
        if asking.library != "dev":
            fitting[asking.calibration] += [trial for trial in trials if trial.concept % 2 == 0]
    report(
        "answerability",
        rows,
        model=encoder.spec.name,
        good_match=GOOD_MATCH,
        fitted={name: _fitted(trials) for name, trials in fitting.items()},
        reliability={name: _reliability(trials) for name, trials in held_out.items()},
        growth={
            f"{one.kind}s": _growth(one.bank)
            for one in askings
            if one.bank is not None and (one.library, one.asked) == ("all", "names")
        },
    )


def _captioned(paths: Sequence[Path], encoder: Encoder) -> Captioned:
    tables = [pq.read_table(path, columns=["image", "captions"]) for path in paths]
    captions = [texts for table in tables for texts in table["captions"].to_pylist()]
    flat = [text for texts in captions for text in texts]
    return Captioned(
        pictures=np.concatenate([_encoded(table["image"], encoder) for table in tables]),
        texts=encoder.encode_texts(flat),
        owner=np.repeat(np.arange(len(captions)), [len(texts) for texts in captions]),
        named=_mentions(flat, [[name] for name, *_ in _concepts()]),
        hinted=_mentions(flat, _concepts()),
    )


def _encoded(files: pa.ChunkedArray, encoder: Encoder) -> Embeddings:
    chunks = (files[low : low + CHUNK].to_pylist() for low in range(0, len(files), CHUNK))
    return np.concatenate(
        [encoder.encode_images([decode_image(data, encoder.spec.image_px)[0] for data in chunk]) for chunk in chunks]
    )


def _askings(name: str, library: Captioned, unseen: Captioned, encoder: Encoder) -> Iterator[Asking]:
    """Yield what is asked of a library: by name, with captions and with pictures of `unseen`, its first ones."""
    bank = encoder.encode_texts(probe_texts(BANK_SIZE))
    shown = unseen.of_pictures(unseen.hinted)
    owner = library.owner
    # Every fifth: one caption of most pictures.
    captions = [text for text in range(0, len(unseen.texts), 5) if shown[:, unseen.owner[text]].any()]
    for kind, items, right, hinted in (
        (Kind.IMAGE, library.pictures, library.of_pictures(library.named), library.of_pictures(library.hinted)),
        (Kind.TEXT, library.texts, library.named, library.hinted),
    ):
        of_bank = bank @ items.T
        by_name = list(_by_name(right, hinted, encoder))
        yield Asking(name, "names", Modality.TEXT, kind, items, of_bank, by_name)
        questions = []
        for text in captions:
            concepts = np.flatnonzero(shown[:, owner[text]])
            own = np.array([owner[text]]) if kind is Kind.IMAGE else np.flatnonzero(owner == owner[text])
            clean = np.setdiff1d(np.flatnonzero(~hinted[concepts].any(axis=0)), own)
            # A caption among captions is answered by the other ones of its picture.
            others = own if kind is Kind.IMAGE else own[own != text]
            questions.append(Question(int(concepts[0]), library.texts[text], others, clean))
        yield Asking(name, "captions", Modality.TEXT, kind, items, of_bank, questions)
    questions = []
    for picture in range(0, len(unseen.pictures), 2):
        concepts = np.flatnonzero(shown[:, picture])
        if len(concepts):
            own, clean = np.flatnonzero(owner == picture), np.flatnonzero(~library.hinted[concepts].any(axis=0))
            questions.append(Question(int(concepts[0]), library.pictures[picture], own, np.setdiff1d(clean, own)))
    rows = bank_rows(len(library.pictures))
    of_bank = library.pictures[rows] @ library.texts.T
    # Generic queries have no answer: a picture of the bank is none to its own captions.
    of_bank[rows[:, None] == owner] = of_bank.mean()
    yield Asking(name, "pictures", Modality.IMAGE, Kind.TEXT, library.texts, of_bank, questions)


def _by_name(right: NDArray[np.bool_], hinted: NDArray[np.bool_], encoder: Encoder) -> Iterator[Question]:
    names = [name for name, *_ in _concepts()]
    for texts in (names, [f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names]):
        for concept, vector in enumerate(encoder.encode_texts(texts)):
            yield Question(concept, vector, np.flatnonzero(right[concept]), np.flatnonzero(~hinted[concept]))
    for i, vector in enumerate(encoder.encode_texts(re.split(r"[|\n]", FOREIGN.strip()))):
        yield Question(i, vector, np.empty(0, np.int64), np.arange(right.shape[1]))


def _of_classes(path: Path, encoder: Encoder) -> Asking:
    """Return the question of one picture for each class, to the others: those of the class are right."""
    table = pq.read_table(path, columns=["image", "captions", "set"], filters=[("set", "in", OBJECTS.split())])
    said = [texts[0] for texts in table["captions"].to_pylist()]
    names = np.array([re.sub(r"^a photo of ((an?|the|some|a pair of) )?", "", text) for text in said])
    words = [set(re.findall(r"\w{3,}", name.lower())) - {"the", "and", "pair"} for name in names.tolist()]
    pictures = _encoded(table["image"], encoder)
    questions = []
    for concept, name in enumerate(sorted(set(names.tolist()))):
        first, *others = np.flatnonzero(names == name)
        if len(others) >= 7:
            unrelated = np.array([words[first].isdisjoint(of_other) for of_other in words])
            questions.append(Question(concept, pictures[first], np.array(others), np.flatnonzero(unrelated)))
    return Asking("classes", "pictures", Modality.IMAGE, Kind.IMAGE, pictures, None, questions)


def _concepts() -> list[list[str]]:
    """Return the words of each concept, its name first."""
    return [re.split("[=,]", concept) for concept in re.split(r"[|\n]", CONCEPTS.strip())]


def _mentions(texts: Sequence[str], concepts: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    """Return (concepts, texts) whether a text has any of the concept's words, also in the plural."""
    found = []
    for words in concepts:
        forms = "|".join(f"{word[:-1]}(?:y|ies)" if word.endswith("y") else f"{word}(?:s|es)?" for word in words)
        pattern = re.compile(rf"\b(?:{forms})\b", re.IGNORECASE)
        found.append([bool(pattern.search(text)) for text in texts])
    return np.array(found)


def _trials(asking: Asking) -> Iterator[Trial]:
    """Yield each question put to libraries of several sizes, without an answer and, where there is one, with it."""
    random = np.random.default_rng(0)
    for question in asking.questions:
        scores = asking.items @ question.vector
        for size in SIZES:
            rows = random.choice(question.clean, min(size, len(question.clean)), replace=False)
            if len(rows) < size / 2:
                continue
            yield _trial(asking, question, scores, rows, size, random)
            if len(question.right):
                share = len(question.right) / (len(question.right) + len(question.clean))
                answers = min(len(question.right), max(1, random.binomial(size, share)))
                rows[:answers] = random.choice(question.right, answers, replace=False)
                yield _trial(asking, question, scores, rows, size, random)


def _trial(
    asking: Asking,
    question: Question,
    scores: NDArray[np.float32],
    rows: NDArray[np.int64],
    size: int,
    random: np.random.Generator,
) -> Trial:
    sample = random.choice(rows, min(SAMPLE, len(rows)), replace=False)
    of_bank = among_themselves(asking.items[sample]) if asking.bank is None else asking.bank[:, sample]
    background = Background.fit(of_bank, len(rows))
    hits = rows[np.argsort(-scores[rows])[:K]]
    mean, first = float(scores[sample].mean()), float(scores[hits[0]])
    return Trial(
        concept=question.concept,
        size=size,
        n=len(rows),
        present=bool(np.isin(question.right, rows).any()),
        right=np.isin(hits, question.right),
        standing=background.standing(scores[hits], mean),
        confidence=confidence(scores[hits], mean, background, asked=asking.modality, found=asking.kind),
        cosine=first,
        z=(first - mean) / float(scores[sample].std()),
    )


def _row(asking: Asking, items: str, trials: Sequence[Trial]) -> dict[str, object]:
    present = np.array([trial.present for trial in trials])
    right = np.array([trial.right[0] for trial in trials])
    first = np.array([trial.confidence[0] for trial in trials])
    no_match = first < GOOD_MATCH
    return {
        "library": asking.library,
        "asked": asking.asked,
        "of": f"{asking.kind}s",
        "items": items,
        "present": int(present.sum()),
        "absent": int((~present).sum()),
        "right_first": float(right[present].mean()),
        "auroc": auroc(first, present),
        "auroc_cosine": auroc(np.array([trial.cosine for trial in trials]), present),
        "auroc_z": auroc(np.array([trial.z for trial in trials]), present),
        "auroc_right": auroc(first, right),
        "ece": _calibration_error(_reliability(trials)),
        "ece_first": _calibration_error(_reliability(trials, k=1)),
        "no_match_right": float(no_match[right].mean()),
        "no_match_present": float(no_match[present].mean()),
        "no_match_absent": float(no_match[~present].mean()),
    }


def auroc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Return the chance that a positive one scores higher than a negative one; equal scores count half."""
    low, high = np.sort(scores[~positive]), scores[positive]
    wins = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
    return float(wins.mean() / (2 * len(low)))


def _reliability(trials: Sequence[Trial], k: int = K) -> list[tuple[float, float, int]]:
    """Return for each tenth of confidence that has hits: their mean confidence, the share that is right, how many."""
    sure = np.concatenate([trial.confidence[:k] for trial in trials])
    right = np.concatenate([trial.right[:k] for trial in trials])
    tenth = np.minimum((10 * sure).astype(int), 9)
    bins = [tenth == i for i in range(10)]
    return [(float(sure[one].mean()), float(right[one].mean()), int(one.sum())) for one in bins if one.any()]


def _calibration_error(reliability: Sequence[tuple[float, float, int]]) -> float:
    sure, right, hits = np.array(reliability).T
    return float(np.average(np.abs(sure - right), weights=hits))


def _fitted(trials: Sequence[Trial]) -> dict[str, float]:
    """Return the fields of a `Calibration`: a logistic regression over all hits, by Newton's method."""
    standing = np.concatenate([trial.standing for trial in trials])
    decades = np.concatenate([np.full(len(t.right), np.log10(np.clip(t.n, *MEASURED_ITEMS))) for t in trials])
    right = np.concatenate([trial.right for trial in trials])
    x = np.column_stack([standing, decades, np.ones(len(standing))])
    w = np.zeros(3)
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ w))
        w += np.linalg.solve((x.T * (p * (1 - p))) @ x, x.T @ (right - p))
    return dict(zip(("slope", "per_decade", "intercept"), w.tolist(), strict=True))


def _growth(bank: NDArray[np.float32]) -> float:
    random = np.random.default_rng(0)
    of_1_000, of_10_000 = (
        np.mean([Background.fit(random.choice(bank, n, replace=False, axis=1), n).level for _ in range(20)])
        for n in SIZES[-2:]
    )
    return float(of_10_000 / of_1_000 - 1)


if __name__ == "__main__":
    main()
