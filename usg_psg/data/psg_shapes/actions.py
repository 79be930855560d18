"""The table of actions of the preset "psg": how each predicate looks that somebody or something does.

No two predicates look the same: poses, and things in the hand or near it, tell them apart.
"""

from __future__ import annotations

from .events import GRASSY, HOLDERS, OUTDOORS, ROOMS, STANDING_PLACES, Event, Part, held, hung, mounted, person, toward
from .figures import ANIMALS
from .places import WATER

PLAIN_WALLS = frozenset(("wall-other-merged", "wall-wood", "wall-brick", "wall-tile"))
_FIELD = frozenset(("field", "park"))
_SMALL_FOODS = ("banana", "apple", "orange", "sandwich", "hot dog", "donut", "carrot", "pizza", "cake", "broccoli")
_BIG_ANIMALS = ("horse", "cow", "elephant", "zebra", "giraffe")
_GRAZERS = ("horse", "cow", "sheep", "zebra", "giraffe", "elephant")
_BALLS = ("sports ball",)
_VEHICLES = ("car", "bus", "truck")

EVENTS: tuple[Event, ...] = (
    held("holding", 0.2, "holding", ("umbrella",), OUTDOORS - {"station"}, grip=0.05, size=1.0),
    held(
        "holding", 0.16, "holding", ("cell phone", "remote", "book", "scissors", "toothbrush", "hair drier"), size=1.6
    ),
    held(
        "holding", 0.16, "holding", ("bottle", "cup", "wine glass", "bowl", "knife", "fork", "spoon"), ROOMS, size=1.4
    ),
    held("holding", 0.14, "holding", ("frisbee", "sports ball", "kite", "teddy bear"), OUTDOORS, size=0.9),
    held("holding", 0.14, "holding", ("tennis racket", "baseball bat"), _FIELD, size=1.0, grip=0.15),
    held("holding", 0.1, "holding", ("surfboard",), frozenset(("coast",)), size=1.0, grip=0.6),
    held("holding", 0.1, "holding", _SMALL_FOODS, size=1.3),
    held("carrying", 0.6, "carrying", ("handbag", "suitcase", "backpack"), grip=1.0, size=1.0),
    held("carrying", 0.25, "carrying", ("skis", "snowboard"), frozenset(("snow",)), size=0.9, grip=0.5),
    held("carrying", 0.15, "carrying", ("surfboard", "skateboard"), frozenset(("coast", "street")), size=0.8),
    Event("wearing", 0.4, (person(), Part(("tie",), (0.0, 0.78), size=1.3, grip=1.0)), ((0, "wearing", 1),)),
    Event(
        "wearing",
        0.35,
        (person("walking"), Part(("backpack",), (-0.14, 0.8), grip=1.0)),
        ((0, "wearing", 1),),
        OUTDOORS,
    ),
    Event(
        "wearing",
        0.25,
        (person("catching"), Part(("baseball glove",), "hand", grip=0.5, size=1.1)),
        ((0, "wearing", 1),),
        _FIELD,
    ),
    toward(
        "looking at",
        0.5,
        "looking",
        Part(("person", "dog", "cat", "horse", "cow"), (0.75, 0.0), turned=True, ground=True),
    ),
    toward(
        "looking at", 0.3, "looking", Part(("elephant", "giraffe", "zebra", "sheep"), (1.3, 0.0), ground=True), GRASSY
    ),
    toward("looking at", 0.2, "looking", Part(("tv", "laptop", "book", "cell phone"), (0.42, 0.62), size=1.2), ROOMS),
    toward("talking to", 1.0, "talking", Part(("person",), (0.62, 0.0), "talking", turned=True, ground=True)),
    toward("kissing", 1.0, "looking", Part(("person",), (0.23, 0.0), "looking", turned=True, ground=True)),
    held("eating", 0.5, "eating", _SMALL_FOODS, size=1.3),
    Event(
        "eating",
        0.25,
        (Part(_GRAZERS, pose="grazing", ground=True),),
        ((0, "eating", "ground"),),
        GRASSY,
        frozenset(("grass-merged",)),
    ),
    Event(
        "eating",
        0.25,
        (Part(("giraffe", "elephant"), ground=True),),
        ((0, "eating", "behind"),),
        frozenset(("park", "savanna")),
        behind=frozenset(("tree-merged",)),
        zone=(1.02, 1.3),
    ),
    held("drinking", 0.6, "drinking", ("bottle", "cup", "wine glass"), size=1.4),
    Event(
        "drinking",
        0.4,
        (Part(("horse", "cow", "zebra", "elephant", "bear"), pose="grazing", ground=True),),
        ((0, "drinking", "ground"),),
        frozenset(("savanna", "park")),
        WATER,
    ),
    Event(
        "feeding",
        1.0,
        (
            person("touching"),
            Part(("giraffe", "elephant", "horse", "cow", "sheep"), (1.05, 0.0), turned=True, ground=True),
            Part(("banana", "apple", "carrot"), "hand", size=1.2, grip=0.5),
        ),
        ((0, "feeding", 1), (0, "holding", 2), (1, "eating", 2)),
        GRASSY,
    ),
    Event(
        "biting",
        1.0,
        (
            Part(("dog",), pose="running", ground=True),
            Part(("frisbee", "teddy bear", "sports ball"), (0.42, 0.28), size=0.8, grip=0.5),
        ),
        ((0, "biting", 1),),
        OUTDOORS,
    ),
    Event(
        "catching",
        0.6,
        (person("catching"), Part(("frisbee", "sports ball"), (0.45, 0.86), size=0.9, grip=0.5)),
        ((0, "catching", 1),),
        OUTDOORS,
    ),
    Event(
        "catching",
        0.4,
        (
            person("catching"),
            Part(("baseball glove",), "hand", grip=0.5),
            Part(_BALLS, (0.46, 0.9), size=0.5, grip=0.5),
        ),
        ((0, "catching", 2), (0, "wearing", 1)),
        _FIELD,
    ),
    Event(
        "picking",
        1.0,
        (person("touching"), Part(("apple", "orange", "banana"), "hand", size=1.1, grip=0.5)),
        ((0, "picking", 1),),
        GRASSY,
        behind=frozenset(("tree-merged",)),
        zone=(1.02, 1.3),
    ),
    Event(
        "playing with",
        0.6,
        (
            Part(("dog", "cat"), ground=True),
            Part(("sports ball", "frisbee", "teddy bear"), (0.44, 0.0), size=0.9, ground=True),
        ),
        ((0, "playing with", 1),),
        STANDING_PLACES,
    ),
    toward("playing with", 0.4, "playing", Part(("dog", "cat"), (0.62, 0.0), turned=True, ground=True)),
    Event(
        "chasing",
        1.0,
        (
            Part(("dog", "horse", "cow"), pose="running", ground=True),
            Part(("sheep", "cat", "dog", "person"), (1.25, 0.0), "running", ground=True),
        ),
        ((0, "chasing", 1),),
        OUTDOORS,
    ),
    Event(
        "climbing",
        1.0,
        (person("climbing", at=(0.0, 0.0)),),
        ((0, "climbing", "behind"),),
        OUTDOORS,
        behind=frozenset(
            ("tree-merged", "mountain-merged", "rock-merged", "wall-other-merged", "building-other-merged")
        ),
        zone=(0.9, 1.06),
    ),
    Event(
        "cleaning",
        1.0,
        (
            person("touching"),
            Part(("toilet", "sink", "oven", "refrigerator"), (0.68, 0.0), ground=True),
            Part(("towel",), "hand", size=1.2, grip=0.7),
        ),
        ((0, "cleaning", 1), (0, "holding", 2)),
        ROOMS,
    ),
    toward(
        "playing",
        0.45,
        "playing",
        Part(("sports ball", "frisbee"), (0.62, 0.78), size=0.9, grip=0.5),
        _FIELD | {"coast"},
    ),
    held("playing", 0.35, "playing", ("tennis racket",), _FIELD, size=1.0, grip=0.1),
    held("playing", 0.2, "playing", ("remote", "cell phone"), ROOMS, size=1.5),
    toward("touching", 0.4, "touching", Part(_BIG_ANIMALS, (0.95, 0.0), ground=True), OUTDOORS),
    toward("touching", 0.3, "touching", Part(("person", "dog"), (0.58, 0.0), ground=True)),
    toward("touching", 0.3, "touching", Part(("refrigerator", "couch", "bed"), (0.58, 0.0), ground=True), ROOMS),
    toward(
        "pushing",
        1.0,
        "pushing",
        Part(("bicycle", "motorcycle", "suitcase", "car"), (0.86, 0.0), ground=True),
        OUTDOORS,
    ),
    Event(
        "pulling",
        0.5,
        (person("pulling"), Part(("suitcase",), (-0.5, 0.0), ground=True)),
        ((0, "pulling", 1),),
        frozenset(("street", "station", "airport")),
    ),
    Event(
        "pulling",
        0.5,
        (person("pulling"), Part(("dog", "horse", "cow"), (-0.82, 0.0), ground=True)),
        ((0, "pulling", 1),),
        OUTDOORS,
    ),
    Event(
        "guiding",
        1.0,
        (person("guiding"), Part(("horse", "cow", "elephant"), (-0.72, 0.0), "", ground=True, behind=True)),
        ((0, "guiding", 1),),
        GRASSY,
    ),
    toward(
        "opening",
        1.0,
        "touching",
        Part(("refrigerator", "oven"), (0.6, 0.0), "open", ground=True),
        frozenset(("kitchen",)),
    ),
    Event(
        "cooking",
        1.0,
        (
            person("looking"),
            Part(("oven",), (0.55, 0.0), ground=True),
            Part(("pizza", "hot dog", "carrot", "broccoli"), (0.5, 0.59), size=1.1),
        ),
        ((0, "cooking", 2), (2, "on", 1)),
        frozenset(("kitchen",)),
    ),
    toward("throwing", 1.0, "throwing", Part(("frisbee", "sports ball"), (0.56, 1.02), size=0.8, grip=0.5), OUTDOORS),
    Event(
        "slicing",
        1.0,
        (
            Part(("pizza", "cake", "carrot", "sandwich", "apple", "orange"), size=1.0, ground=True),
            Part(("knife",), (0.06, 0.06), size=1.2, angle=35),
        ),
        ((1, "slicing", 0),),
        frozenset(("table",)),
    ),
    mounted("driving", 1.0, ("motorcycle",), (-0.08, 0.26), "riding", frozenset(("street", "park", "airport"))),
    mounted("riding", 0.3, ("horse", "elephant"), (-0.06, 0.48), "riding", OUTDOORS, size=0.95),
    mounted("riding", 0.2, ("bicycle",), (-0.08, 0.26), "riding", OUTDOORS),
    mounted("riding", 0.14, ("skateboard",), (0.0, 0.1), "balancing", frozenset(("street", "park"))),
    mounted("riding", 0.18, ("skis", "snowboard"), (0.0, 0.03), "balancing", frozenset(("snow",))),
    Event(
        "riding",
        0.18,
        (Part(("surfboard",), (0.0, 0.0), angle=80.0, ground=True), Part(("person",), (0.42, 0.08), "balancing")),
        ((1, "riding", 0),),
        frozenset(("coast",)),
        WATER,
    ),
    mounted(
        "on back of", 1.0, ("horse", "cow", "elephant", "zebra"), (-0.1, 0.62), "", GRASSY, riders=("bird",), size=0.9
    ),
    mounted("falling off", 0.5, ("skateboard",), (0.28, 0.16), "falling", frozenset(("street", "park")), angle=55),
    Event(
        "falling off",
        0.5,
        (Part(("surfboard",), angle=80.0, ground=True), Part(("person",), (0.6, 0.2), "falling", angle=60)),
        ((1, "falling off", 0),),
        frozenset(("coast",)),
        WATER,
    ),
    Event(
        "going down",
        1.0,
        (person("running", angle=14), Part(("skis", "snowboard"), (0.05, -0.02), angle=14)),
        ((0, "going down", "ground"), (0, "on", 1)),
        frozenset(("snow",)),
    ),
    Event(
        "painted on",
        1.0,
        (
            Part(("bus", "train", "truck"), ground=True, size=1.1),
            Part(("bird", "person", "giraffe"), (-0.3, 0.32), "painted", size=0.45),
        ),
        ((1, "painted on", 0),),
        frozenset(("street", "station")),
    ),
    Event(
        "crossing",
        1.0,
        (person("crossing"),),
        ((0, "crossing", "ground"),),
        frozenset(("street", "station")),
        frozenset(("road", "railroad")),
    ),
    Event(
        "sitting on",
        0.35,
        (Part(("bench",), ground=True), Part(("person",), (0.1, 0.06), "sitting", 0.95)),
        ((1, "sitting on", 0),),
        OUTDOORS,
    ),
    Event(
        "sitting on",
        0.3,
        (Part(("chair",), ground=True), Part(("person", "teddy bear"), (0.06, 0.14), "sitting", 0.95)),
        ((1, "sitting on", 0),),
        ROOMS | {"coast"},
    ),
    Event(
        "sitting on",
        0.25,
        (Part(("couch", "bed"), ground=True), Part(("person", "teddy bear"), (0.1, 0.06), "sitting", 0.95)),
        ((1, "sitting on", 0),),
        ROOMS,
    ),
    Event(
        "sitting on",
        0.1,
        (Part(("toilet",), ground=True), Part(("person",), (0.1, 0.0), "sitting", 0.95)),
        ((1, "sitting on", 0),),
        frozenset(("bathroom",)),
    ),
    mounted("lying on", 0.3, ("bed", "couch"), (0.0, 0.3), "lying", ROOMS, riders=("cat", "dog")),
    mounted("lying on", 0.2, ("bench",), (0.0, 0.26), "lying", OUTDOORS, riders=("cat", "dog"), size=0.9),
    Event(
        "jumping over",
        1.0,
        (Part(("fire hydrant", "bench", "suitcase", "dog"), ground=True), Part(("person",), (0.0, 0.55), "jumping")),
        ((1, "jumping over", 0),),
        OUTDOORS,
    ),
    Event(
        "jumping from",
        0.5,
        (person("jumping"), Part(("skis", "snowboard"), (0.0, 0.12), size=0.9)),
        ((0, "jumping from", "ground"), (0, "on", 1)),
        frozenset(("snow",)),
    ),
    Event(
        "jumping from",
        0.5,
        (Part(("skateboard",), ground=True), Part(("person",), (0.0, 0.3), "jumping")),
        ((1, "jumping from", 0),),
        frozenset(("street", "park")),
    ),
    Event(
        "about to hit",
        0.5,
        (
            person("hitting"),
            Part(("baseball bat",), "hand", grip=0.05, angle=-30, size=1.2),
            Part(_BALLS, (0.72, 0.8), size=0.5, grip=0.5),
        ),
        ((0, "about to hit", 2), (0, "holding", 1)),
        _FIELD,
    ),
    Event(
        "about to hit",
        0.5,
        (
            person("hitting"),
            Part(("tennis racket",), "hand", grip=0.05, size=1.0),
            Part(_BALLS, (0.7, 0.9), size=0.45, grip=0.5),
        ),
        ((0, "about to hit", 2), (0, "holding", 1)),
        _FIELD,
    ),
    toward("kicking", 1.0, "kicking", Part(_BALLS, (0.46, 0.06), size=0.9), _FIELD | {"coast"}),
    held("swinging", 0.5, "swinging", ("tennis racket",), _FIELD, size=1.1, grip=0.05, angle=70),
    held("swinging", 0.5, "swinging", ("baseball bat",), _FIELD, size=1.2, grip=0.05, angle=70),
    toward(
        "entering",
        1.0,
        "entering",
        Part(("bus", "train", "airplane"), (0.5, 0.0), size=1.1, ground=True, behind=True),
        frozenset(("street", "station", "airport")),
    ),
    Event(
        "exiting",
        1.0,
        (person("walking"), Part(("bus", "train", "airplane"), (-0.75, 0.0), size=1.1, ground=True, behind=True)),
        ((0, "exiting", 1),),
        frozenset(("street", "station", "airport")),
    ),
    Event(
        "leaning on",
        0.6,
        (Part(("surfboard", "skis", "bicycle", "snowboard"), angle=-16, ground=True),),
        ((0, "leaning on", "behind"),),
        OUTDOORS,
        behind=HOLDERS | {"wall-other-merged"},
        zone=(1.02, 1.18),
    ),
    Event(
        "leaning on",
        0.4,
        (
            person(angle=-14),
            Part(("car", "bicycle", "motorcycle"), (-0.75, 0.0), ground=True, behind=True),
        ),
        ((0, "leaning on", 1),),
        OUTDOORS,
    ),
    Event(
        "enclosing",
        1.0,
        (Part(tuple(sorted(ANIMALS - {"bird", "giraffe"})), ground=True), Part(("fence-merged",))),
        ((1, "enclosing", 0),),
        GRASSY,
    ),
    Event(
        "in",
        0.4,
        (
            Part(("bowl",), ground=True, size=1.5),
            Part(("apple", "orange", "banana", "broccoli"), (0.0, 0.1), size=1.1, behind=True),
        ),
        ((1, "in", 0),),
        frozenset(("table",)),
    ),
    Event(
        "in",
        0.3,
        (Part(("boat",), ground=True, size=1.2), Part(("person",), (-0.4, 0.14), "aboard", behind=True)),
        ((1, "in", 0),),
        frozenset(("coast",)),
        WATER,
    ),
    Event(
        "in",
        0.3,
        (Part(("suitcase", "handbag", "backpack"), ground=True), Part(("teddy bear", "cat"), (0.0, 0.24), behind=True)),
        ((1, "in", 0),),
        ROOMS,
    ),
    hung("hanging from", 0.5, "potted plant", 0.9, ROOMS, frozenset(("ceiling-merged",)), (0.3, 0.5)),
    hung("hanging from", 0.5, "backpack", 1.0, ROOMS, PLAIN_WALLS, (0.6, 0.9)),
    hung("attached to", 0.03, "clock", 1.0, ROOMS, PLAIN_WALLS, (0.35, 0.7)),
    hung(
        "attached to",
        0.03,
        "clock",
        1.0,
        frozenset(("street", "station")),
        frozenset(("building-other-merged",)),
        (0.7, 0.95),
    ),
    hung("attached to", 0.03, "tv", 1.1, ROOMS, PLAIN_WALLS, (0.5, 0.85)),
    hung("attached to", 0.02, "sink", 1.0, frozenset(("bathroom", "kitchen")), PLAIN_WALLS, (0.75, 0.95)),
)
