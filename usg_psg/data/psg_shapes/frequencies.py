"""How often things occur in PSG: the counts that the preset "psg" imitates."""

from __future__ import annotations

# Relations by predicate in all of PSG, as listed in VLPrompt's tools/rare_class_finder.py (c77720f), 268,114 in all.
PSG_PREDICATE_COUNTS: dict[str, int] = {
    "over": 39950,
    "in front of": 11433,
    "beside": 45859,
    "on": 54222,
    "in": 10051,
    "attached to": 20967,
    "hanging from": 3935,
    "on back of": 146,
    "falling off": 10,
    "going down": 118,
    "painted on": 192,
    "walking on": 7256,
    "running on": 1174,
    "crossing": 205,
    "standing on": 18754,
    "lying on": 1518,
    "sitting on": 5444,
    "flying over": 869,
    "jumping over": 81,
    "jumping from": 179,
    "wearing": 2982,
    "holding": 10466,
    "carrying": 2385,
    "looking at": 5351,
    "guiding": 90,
    "kissing": 17,
    "eating": 1283,
    "drinking": 117,
    "feeding": 70,
    "biting": 162,
    "catching": 135,
    "picking": 15,
    "playing with": 353,
    "chasing": 39,
    "climbing": 12,
    "cleaning": 22,
    "playing": 1934,
    "touching": 979,
    "pushing": 78,
    "pulling": 323,
    "opening": 8,
    "cooking": 19,
    "talking to": 428,
    "throwing": 183,
    "slicing": 139,
    "driving": 616,
    "riding": 2061,
    "parked on": 6795,
    "driving on": 5785,
    "about to hit": 572,
    "kicking": 75,
    "swinging": 743,
    "entering": 55,
    "exiting": 28,
    "enclosing": 600,
    "leaning on": 831,
}
PSG_RELATIONS_PER_IMAGE = 5.6  # PSG's paper, table 1

# More groups than the counts ask for, where some do not fit or are not written down.
EVENT_BOOST: dict[str, float] = {
    "": 1.8,
    "in": 2.5,
    "riding": 2.6,
    "leaning on": 3.2,
    "driving": 5.0,
    "sitting on": 2.0,
    "holding": 1.6,
}

# Height and width of COCO's photographs with the longer side at 640, and how many of 100 have about that shape: shares
# among 150 of COCO's photographs.
COCO_SHAPES: tuple[tuple[int, int, float], ...] = (
    (480, 640, 33),
    (427, 640, 23),
    (640, 480, 10),
    (640, 427, 7),
    (640, 640, 5),
    (360, 640, 4),
    (540, 640, 3),
    (500, 640, 3),
    (400, 640, 3),
    (640, 580, 3),
    (580, 640, 2),
    (640, 520, 2),
    (320, 640, 1),
    (640, 360, 1),
)

# Of `annotator.py`: how readily relations are written down, by canonical predicate, and how readily names are used.
WRITTEN_RATES: dict[str, float] = dict.fromkeys(PSG_PREDICATE_COUNTS, 1.0)
NAME_WEIGHTS: dict[str, float] = dict.fromkeys(PSG_PREDICATE_COUNTS, 1.0)
