"""COCO 2017's archives, as cocodataset.org offers them; the checksums are those that TensorFlow Datasets records."""

from __future__ import annotations

COCO_URL = "http://images.cocodataset.org"
# Path below the URL, and SHA-256.
ARCHIVES = {
    "panoptic": (
        "annotations/panoptic_annotations_trainval2017.zip",
        "c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
    ),
    "val2017": ("zips/val2017.zip", "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"),
    "train2017": ("zips/train2017.zip", "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929"),
}
PARTS = ("train2017", "val2017")  # folders of images; panoptic_* have their PNGs
