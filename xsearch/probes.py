"""Generic English captions: what people might ask of any library, for one that has no texts of its own."""

from random import Random

BEINGS = """
a brown dog|a black cat|two kittens|a white horse|a herd of cows|a flock of sheep|an elephant|a small bird|an owl
a butterfly|a bee|a spider|a turtle|a school of fish|a whale|a lizard|a monkey|a bear|a duck|a rabbit|a man
a young woman|an old man|a child|a baby|two people|a crowd of people|a group of friends|a family|a bride and groom
a football player|a surfer|a cyclist|a skateboarder|a chef|a musician|a dancer|a doctor|a farmer|a soldier
a fisherman|a teacher with pupils|three girls|a boy in a red shirt|a woman with an umbrella|a man with a beard
"""

OBJECTS = """
a red car|an old truck|a yellow bus|a motorcycle|a bicycle|a train|an aeroplane|a helicopter|a sailing boat|a ship
a tractor|a fire engine|a bowl of soup|a plate of pasta|a pizza|a birthday cake|a cup of coffee|a glass of wine
fresh vegetables|a basket of fruit|a sandwich|grilled meat|a loaf of bread|sushi|an ice cream|a laptop
a mobile phone|a camera|a wooden chair|an empty table|a sofa|a bed|a lamp|a clock|a pile of books|a guitar|a piano
a pair of shoes|a hat|a wedding dress|a backpack|a vase of flowers|a sunflower|a rose|a tall tree|mushrooms|a cactus
a castle|a church|a bridge|a lighthouse|a skyscraper|a wooden house|a tent|a statue|a fountain|a windmill
a road sign|a shop window|a street lamp|a mountain|a waterfall|a river|a lake|a glacier|a volcano|clouds|a rainbow
the full moon|a toy|a balloon|a kite|a newspaper|a map|a receipt
"""

ACTIONS = """
running|walking|sitting|standing still|lying down|jumping|swimming|climbing|sleeping|eating|drinking|playing|waiting
working|resting|smiling at the camera|looking out of a window|talking|laughing|dancing|singing|reading|writing
cooking|cleaning|painting|taking a picture|holding a phone|carrying a bag|riding a horse|throwing a ball
catching a frisbee|pushing a cart|crossing the street|shaking hands|hugging|waving|arguing|shopping|fishing|skiing
"""

PLACES = """
on a beach|in a forest|in the snow|on green grass|in a field of flowers|in the mountains|in the desert|under water
by a lake|on a river bank|in a park|in a garden|in a back yard|on a city street|at a crossing|at a market|in a shop
in a supermarket|in a restaurant|in a cafe|in a kitchen|in a living room|in a bedroom|in a bathroom|in an office
in a classroom|in a library|in a museum|in a hospital|in a factory|in a garage|at a railway station|at an airport
in a harbour|on a bridge|on a roof|on a balcony|on a stage|in a stadium|on a tennis court|on a playground
in a swimming pool|at a wedding|at a concert|at a birthday party|in front of a brick wall|on a wooden table
behind a fence|in a parking lot|on a farm|in a cave|in an old town
"""

TIMES = """
at night|at sunset|at sunrise|in the rain|in fog|on a sunny day|under a cloudy sky|in autumn|in winter|in spring
in summer|in the evening light|in the shade|after a storm
"""

STYLES = """
a photo of|a close-up of|a blurry picture of|a black and white photograph of|an aerial view of|a drawing of
a painting of|a cartoon of|a screenshot of|a poster of|a macro shot of|a portrait of|a selfie with
an old photograph of|a silhouette of|a view from behind of|a low-angle shot of|a reflection of|a sketch of
a scanned page with|a night shot of|a toy model of
"""

ATTRIBUTES = """
a red|a blue|a green|a yellow|a white|a black|an orange|a pink|a golden|a striped|a colourful|a shiny|a rusty
a broken|a wet|a dusty|a tiny|a huge|a round|a wooden|a metal|a glass|a plastic|an old-fashioned|a modern|an empty
a crowded|a dark|a bright
"""

THINGS = """
car|bicycle|bus|boat|door|window|house|tower|chair|table|bench|bag|hat|coat|dress|shirt|shoe|cup|bottle|plate|box
book|phone|screen|keyboard|ball|toy|flower|leaf|tree|stone|wall|fence|sign|street|room|kitchen|corridor|staircase
roof
"""

# The last ones join several topics: such queries are the hardest for an index to route.
TEMPLATES = (
    "{subject}",
    "{style} {subject}",
    "{subject} {place}",
    "{being} {action} {place}",
    "{attribute} {thing}",
    "{being} {action} {time}",
    "{style} {subject} {place}",
    "{attribute} {thing} and {attribute} {thing}",
    "{subject} next to {subject}",
    "{attribute} {thing} {place} {time}",
    "there is {being} {action} {place} with {subject} in the background",
    "{subject} {place}, {being} {time} and {attribute} {thing}",
)


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(phrase for line in text.split("\n") for phrase in line.split("|") if phrase)


_WORDS = {
    "being": _phrases(BEINGS),
    "subject": _phrases(BEINGS) + _phrases(OBJECTS),
    "action": _phrases(ACTIONS),
    "place": _phrases(PLACES),
    "time": _phrases(TIMES),
    "style": _phrases(STYLES),
    "attribute": _phrases(ATTRIBUTES),
    "thing": _phrases(THINGS),
}


def probe_texts(n: int) -> list[str]:
    """Return n different texts, always the same ones: the first m of n are `probe_texts(m)`."""
    random = Random(0)
    texts: dict[str, None] = {}
    i = 0
    while len(texts) < n:
        texts[_fill(TEMPLATES[i % len(TEMPLATES)], random)] = None
        i += 1
    return list(texts)


def _fill(template: str, random: Random) -> str:
    """Replace each {field} with a word of its list, drawn anew for each occurrence."""
    pieces = []
    for piece in template.replace("}", "{").split("{"):
        words = _WORDS.get(piece)
        # Only `random()` itself is promised to be the same in every version of Python.
        pieces.append(words[int(random.random() * len(words))] if words else piece)
    return "".join(pieces)
