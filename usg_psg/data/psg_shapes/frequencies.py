"""How often things occur in PSG: the counts that the preset "psg" imitates."""

from __future__ import annotations


def read_numbers(text: str) -> dict[str, float]:
    """A table written as "name number, name number"."""
    pairs = (entry.rsplit(maxsplit=1) for entry in text.split(",") if entry.strip())
    return {name.strip(): float(number) for name, number in pairs}


# Relations by predicate in all of PSG, as listed in VLPrompt's tools/rare_class_finder.py (c77720f), 268,114 in all.
PSG_PREDICATE_COUNTS = read_numbers("""
    over 39950, in front of 11433, beside 45859, on 54222, in 10051, attached to 20967, hanging from 3935,
    on back of 146, falling off 10, going down 118, painted on 192, walking on 7256, running on 1174, crossing 205,
    standing on 18754, lying on 1518, sitting on 5444, flying over 869, jumping over 81, jumping from 179,
    wearing 2982, holding 10466, carrying 2385, looking at 5351, guiding 90, kissing 17, eating 1283, drinking 117,
    feeding 70, biting 162, catching 135, picking 15, playing with 353, chasing 39, climbing 12, cleaning 22,
    playing 1934, touching 979, pushing 78, pulling 323, opening 8, cooking 19, talking to 428, throwing 183,
    slicing 139, driving 616, riding 2061, parked on 6795, driving on 5785, about to hit 572, kicking 75,
    swinging 743, entering 55, exiting 28, enclosing 600, leaning on 831
""")
PSG_RELATIONS_PER_IMAGE = 5.6  # PSG's paper, table 1

# More groups than the counts ask for, where some do not fit or are not written down.
EVENT_BOOST = dict.fromkeys(PSG_PREDICATE_COUNTS, 1.6) | read_numbers("""
    in 2.5, holding 1.4, riding 1.9, swinging 2.0, enclosing 2.4, talking to 1.6, playing with 2.6, leaning on 3.0,
    driving 1.6
""")

# Height and width of COCO's photographs with the longer side at 640, and how many of 100 have about that shape: shares
# among 150 of COCO's photographs.
# fmt: off
COCO_SHAPES: tuple[tuple[int, int, float], ...] = (
    (480, 640, 33), (427, 640, 23), (640, 480, 10), (640, 427, 7), (640, 640, 5),
    (360, 640, 4), (540, 640, 3), (500, 640, 3), (400, 640, 3), (640, 580, 3),
    (580, 640, 2), (640, 520, 2), (320, 640, 1), (640, 360, 1),
)
# fmt: on

# How readily relations are written down, by canonical predicate, and names are used (`psg_scene.py`): fitted to
# the counts above on 3,000 scenes. Actions are nearly always written down, what goes without saying rarely.
WRITTEN_RATES = dict.fromkeys(PSG_PREDICATE_COUNTS, 3.6) | read_numbers("""
    over 0.68, in front of 0.097, beside 0.35, on 0.1, in 1.12, attached to 2.98, walking on 2.9, running on 0.24,
    standing on 0.29, lying on 0.44, sitting on 3.15, flying over 0.17, wearing 1.58, holding 1.29, carrying 3.21,
    looking at 0.18, eating 1.85, playing 1.49, touching 1.09, driving 2.0, parked on 1.05, driving on 2.3,
    about to hit 2.04, swinging 2.84, enclosing 2.63
""")
NAME_WEIGHTS = dict.fromkeys(PSG_PREDICATE_COUNTS, 1.0) | read_numbers("""
    over 0.4, in front of 0.8, beside 0.35, on 0.3, in 0.5, attached to 0.4, walking on 0.4, standing on 0.35,
    holding 0.3, looking at 0.4, playing 0.3, touching 0.3, riding 0.5
""")
