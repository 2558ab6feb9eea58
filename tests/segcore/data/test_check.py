"""Every sort of problem is planted into a sound data set, and found under its name."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from segcore.data.check import check_panoptic_dataset
from segcore.data.report import summarize
from segcore.errors import DataError


def check(folder, **options):
    return check_panoptic_dataset(
        folder.images, folder.json, folder.pngs, progress=False, **options
    )


def found(report) -> dict[str, list]:
    by_kind = {}
    for problem in report.problems:
        by_kind.setdefault(problem.kind, []).append(problem)
    return by_kind


def assert_found(report, kind: str, *words: str, is_error: bool = True) -> None:
    """The report has a problem of that kind whose text has all the words."""
    problems = found(report)
    assert kind in problems, f"expected {kind!r}, found {problems}"
    assert any(
        all(word in str(problem) for word in words) and problem.is_error == is_error
        for problem in problems[kind]
    ), problems[kind]
    assert report.ok != is_error
    assert kind in report.summary()


def save_photo(folder, size, orientation=None):
    exif = Image.Exif()
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", size).save(folder.images / "a.jpg", exif=exif)


@pytest.mark.parametrize("quick", [False, True])
def test_sound_data(folder, quick):
    report = check(folder, quick=quick, evaluation=True)
    assert report.problems == []
    report.raise_if_failed()
    assert (report.num_photos, report.num_annotations) == (2, 2)
    counts = {
        count.name: (count.is_thing, count.segments, count.crowds) for count in report.classes
    }
    assert counts == {
        "road": (False, 2, 0),
        "car": (True, 2, 0),
        "person": (True, 1, 1),
        "sky": (False, 1, 0),
    }
    assert "No problems" in report.summary()


@pytest.mark.parametrize("attribute", ["images", "json", "pngs"])
def test_wrong_paths(folder, attribute):
    wrong = folder.images.parent / "elsewhere"
    setattr(folder, attribute, wrong)
    report = check(folder)
    assert [problem.file for problem in report.errors] == [str(wrong)]
    with pytest.raises(DataError, match="elsewhere"):
        report.raise_if_failed()


def test_not_json(folder):
    folder.json.write_text("not json")
    assert_found(check(folder), "wrong path or format", "panoptic.json", "not a JSON file")


# Plants in the JSON: each takes the folder, whose files are written afterwards. Found by the quick
# check as well.


def _drop(record, key):
    del record[key]


JSON_PLANTS = {
    "isthing missing": (
        lambda f: _drop(f.data["categories"][1], "isthing"),
        ("broken record", "number 2", "'isthing'"),
    ),
    "isthing of another type": (
        lambda f: f.data["categories"][1].update(isthing="yes"),
        ("broken record", "'yes'"),
    ),
    "wrong color": (
        lambda f: f.data["categories"][0].update(color=[1, 2, 300]),
        ("broken record", "'color'"),
    ),
    "category without name": (
        lambda f: _drop(f.data["categories"][3], "name"),
        ("broken record", "number 4", "'name'"),
    ),
    "category id of another type": (
        lambda f: f.data["categories"][3].update(id=[5]),
        ("broken record", "number 4", "[5]"),
    ),
    "duplicate category": (
        lambda f: f.data["categories"].append(dict(f.data["categories"][0], name="street")),
        ("duplicate category", "2 category records", "7"),
    ),
    "no categories": (lambda f: f.data["categories"].clear(), ("no categories",)),
    "no annotations": (lambda f: f.data["annotations"].clear(), ("no annotations",)),
    "image without height": (
        lambda f: _drop(f.data["images"][0], "height"),
        ("broken record", "image number 1", "'height'"),
    ),
    "duplicate image": (
        lambda f: f.data["images"].append(dict(f.data["images"][0])),
        ("duplicate image", "id 1"),
    ),
    "annotation without file name": (
        lambda f: _drop(f.data["annotations"][0], "file_name"),
        ("broken record", "number 1", "'file_name'"),
    ),
    "segments of another type": (
        lambda f: f.data["annotations"][0].update(segments_info={}),
        ("broken record", "'segments_info'"),
    ),
    "duplicate annotation": (
        lambda f: f.data["annotations"].append(dict(f.data["annotations"][0])),
        ("duplicate annotation", "image_id 1"),
    ),
    "annotation without image": (
        lambda f: f.data["annotations"][0].update(image_id="1"),
        ("annotation without image", "a.png", "'1'"),
    ),
    "segment id 0": (
        lambda f: f.segments[0].update(id=0),
        ("broken segment", "a.png", "segment 0", "unlabeled"),
    ),
    "segment id beyond 24 bits": (
        lambda f: f.segments[0].update(id=256**3),
        ("broken segment", "16777216"),
    ),
    "segment without category": (
        lambda f: _drop(f.segments[1], "category_id"),
        ("broken segment", "segment 300", "'category_id'"),
    ),
    "unknown category": (
        lambda f: f.segments[2].update(category_id=99),
        ("unknown category", "a.png", "segment 70000", "99"),
    ),
    "duplicate segment": (
        lambda f: f.segments.append(dict(f.segments[2])),
        ("duplicate segment", "a.png", "70000"),
    ),
    "too many categories": (
        lambda f: f.data["categories"].extend(
            {"id": 100 + number, "name": f"class {number}", "isthing": 0} for number in range(8189)
        ),
        ("too many categories", "8193", "8192"),
    ),
    "duplicate class name": (
        lambda f: f.data["categories"][0].update(name="car"),
        ("duplicate class name", "'car'"),
    ),
    "endless class name": (
        lambda f: f.data["categories"][0].update(name="x" * 100_000),
        ("broken record", "'name'", "100000"),
    ),
    "name of a lone surrogate": (
        lambda f: f.data["categories"][0].update(name="\ud800"),
        ("broken record", "'name'", r"\ud800"),
    ),
    "negative category id": (
        lambda f: f.data["categories"][0].update(id=-7),
        ("broken record", "'id'", "-7"),
    ),
    "list as segment id": (
        lambda f: f.segments[0].update(id=[]),
        ("broken segment", "segment []"),
    ),
    "object as category id of a segment": (
        lambda f: f.segments[0].update(category_id={}),
        ("broken segment", "'category_id'", "{}"),
    ),
    "number as image id": (
        lambda f: f.data["annotations"][0].update(image_id=1.5),
        ("broken record", "'image_id'", "1.5"),
    ),
    "bbox of three numbers": (
        lambda f: f.segments[0].update(bbox=[1, 2, 3]),
        ("broken segment", "'bbox'", "[1, 2, 3]"),
    ),
    "photo outside of its folder": (
        lambda f: f.data["images"][0].update(file_name="../a.jpg"),
        ("broken record", "'file_name'", "'../a.jpg'"),
    ),
    "absolute file name": (
        lambda f: f.data["annotations"][0].update(file_name=str(f.pngs / "a.png")),
        ("broken record", "'file_name'", "inside of it"),
    ),
    "file name with a slash behind": (
        lambda f: f.data["annotations"][0].update(file_name="a.png/"),
        ("broken record", "'a.png/'"),
    ),
    "file name with NUL": (
        lambda f: f.data["images"][0].update(file_name="a\0.jpg"),
        ("broken record", r"a\x00.jpg"),
    ),
    "file name that no file can have": (
        lambda f: f.data["images"][0].update(file_name="x" * 300),
        ("broken record", "'file_name'", "300 bytes"),
    ),
    "gigantic photo": (
        lambda f: f.data["images"][0].update(height=10**9, width=10**9),
        ("broken record", "'height'", "1000000000"),
    ),
    "crowds only": (
        lambda f: [
            segment.update(iscrowd=1)
            for annotation in f.data["annotations"]
            for segment in annotation["segments_info"]
        ],
        ("nothing to learn",),
    ),
    "more segments than pixels of a screen": (
        lambda f: f.segments.extend({"id": 10**6 + i, "category_id": 3} for i in range(4092)),
        ("too many segments", "4097"),
    ),
    "missing photo": (
        lambda f: f.data["images"][0].update(file_name="gone.jpg"),
        ("missing file", "gone.jpg"),
    ),
    "missing PNG": (
        lambda f: f.data["annotations"][0].update(file_name="gone.png"),
        ("missing file", "gone.png"),
    ),
    "JSON has another size": (
        lambda f: f.data["images"][0].update(height=32, width=24),
        ("different sizes", "a.jpg", "32 x 24", "24 x 32"),
    ),
}


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", JSON_PLANTS)
def test_problem_in_the_json(folder, name, quick):
    plant, expected = JSON_PLANTS[name]
    plant(folder)
    folder.write()
    assert_found(check(folder, quick=quick), *expected)


def test_harmless_oddities_are_warnings(folder):
    folder.data["images"].append({"id": 3, "file_name": "c.jpg", "height": 4, "width": 4})
    folder.segments.clear()
    folder.ids["a.png"][:] = 0
    folder.write()
    report = check(folder)
    assert_found(report, "image without annotation", "c.jpg", is_error=False)
    assert_found(report, "no segments", "a.png", is_error=False)
    report.raise_if_failed()


def test_equal_names_matter_to_evaluation(folder):
    folder.data["images"][1]["file_name"] = "more/a.png"
    (folder.images / "more" / "b.png").rename(folder.images / "more" / "a.png")
    folder.write()
    assert check(folder).ok
    assert_found(check(folder, evaluation=True), "same file name", "a.jpg", "more/a.png")


ONLY_IN_EVALUATION = {
    "photo twice": (
        lambda f: f.data["images"].append({**f.data["images"][0], "id": 9}),
        ("same photo", "2 images", "a.jpg"),
    ),
    "stuff in two segments": (
        lambda f: f.segments[2].update(category_id=7),
        ("several segments of a stuff class", "2 segments are 'road'"),
    ),
}


@pytest.mark.parametrize("name", ONLY_IN_EVALUATION)
def test_what_falsifies_evaluation_is_a_warning_in_training(folder, name):
    plant, expected = ONLY_IN_EVALUATION[name]
    plant(folder)
    folder.write()
    assert_found(check(folder), *expected, is_error=False)
    assert_found(check(folder, evaluation=True), *expected)


def test_evaluation_needs_image_ids_of_one_type(folder):
    folder.data["images"][0]["id"] = folder.data["annotations"][0]["image_id"] = "one"
    folder.write()
    assert check(folder).ok
    assert_found(check(folder, evaluation=True), "mixed image ids")


def test_wrong_box(folder):
    folder.segments[2]["bbox"] = [4, 10, 4, 6]
    folder.segments[3]["bbox"] = [0, 0, 32, 24]
    folder.write()
    report = check(folder)
    assert_found(report, "different boxes", "segment 2 ", "[8, 10, 6, 6]", is_error=False)
    assert len(report.problems) == 1


def test_a_png_of_noise_is_reported_briefly(folder):
    folder.ids["a.png"] = np.arange(24 * 32).reshape(24, 32) * 20_000 + 50_000
    folder.data["annotations"][0]["segments_info"] = []
    folder.write()
    report = check(folder)
    assert_found(report, "PNG id without segment", f"{24 * 32 - 20} more ids")
    assert len(report.errors) == 21


@pytest.mark.parametrize("quick", [False, True])
def test_sizes_of_photo_and_png(folder, quick):
    save_photo(folder, (33, 24))
    Image.new("RGB", (30, 21)).save(folder.pngs / "b_ids.png")
    report = check(folder, quick=quick)
    assert_found(report, "different sizes", "a.jpg", "33 x 24", "32 x 24")
    assert_found(report, "different sizes", "b_ids.png", "30 x 21", "30 x 20")


def test_exif_orientation_that_changes_the_size(folder):
    save_photo(folder, (32, 24), orientation=6)
    assert_found(check(folder), "EXIF orientation", "a.jpg", "orientation 6", "24 x 32")


def test_exif_orientation_that_agrees_with_the_json(folder):
    save_photo(folder, (24, 32), orientation=6)
    assert_found(check(folder), "EXIF orientation", "a.jpg", "will be turned", is_error=False)
    save_photo(folder, (32, 24), orientation=1)
    assert check(folder).problems == []


def test_broken_photo(folder):
    (folder.images / "a.jpg").write_bytes(b"no picture")
    assert_found(check(folder, quick=True), "unreadable photo", "a.jpg")


@pytest.mark.parametrize("name", ["a.jpg", "more/b.png"])
def test_photo_that_breaks_off(folder, name):
    path = folder.images / name
    path.write_bytes(path.read_bytes()[:-300])
    assert_found(check(folder), "unreadable photo", name)


def test_photo_of_one_pixel(folder):
    folder.data["images"][0].update(height=1, width=1)
    folder.ids["a.png"] = np.full((1, 1), 9, dtype=np.int32)
    del folder.segments[1:]
    folder.write()
    save_photo(folder, (1, 1))
    assert check(folder).problems == []


def test_panoptic_png_that_breaks_off(folder):
    path = folder.pngs / "a.png"
    path.write_bytes(path.read_bytes()[:80])
    assert_found(check(folder), "unreadable panoptic PNG", "a.png")


@pytest.mark.parametrize(
    ("mode", "suffix", "is_error"), [("I;16", "png", False), ("F", "tif", True), ("I", "tif", True)]
)
def test_photo_whose_values_are_changed_or_refused(folder, mode, suffix, is_error):
    folder.data["images"][0]["file_name"] = f"a.{suffix}"
    folder.write()
    Image.new(mode, (32, 24)).save(folder.images / f"a.{suffix}")
    kind = "unreadable photo" if is_error else "changed pixels"
    for quick in (False, True):
        assert_found(check(folder, quick=quick), kind, f"a.{suffix}", is_error=is_error)


def test_photo_with_several_frames(folder):
    frames = [Image.new("RGB", (32, 24), color) for color in ("red", "blue")]
    frames[0].save(folder.images / "a.jpg", "GIF", save_all=True, append_images=frames[1:])
    assert_found(check(folder), "changed pixels", "a.jpg", "first frame", is_error=False)


def test_too_many_pixels(folder):
    report = check(folder, max_pixels=32 * 24 - 1)
    assert_found(report, "unreadable photo", "a.jpg", "INPUT.MAX_PIXELS", "32 x 24")
    assert_found(report, "unreadable panoptic PNG", "a.png", "INPUT.MAX_PIXELS", "32 x 24")
    assert len(report.problems) == 2
    assert check(folder, max_pixels=32 * 24).ok


def test_panoptic_png_with_a_palette(folder):
    Image.new("P", (32, 24)).save(folder.pngs / "a.png")
    assert_found(check(folder), "unreadable panoptic PNG", "a.png", "'P'", "convert it to RGB if")


def test_png_id_without_segment(folder):
    folder.ids["a.png"][0, :4] = 1 + 256 * 2 + 65536 * 3
    folder.write()
    assert_found(
        check(folder), "PNG id without segment", "a.png", "4 pixels", "197121", "(1, 2, 3)"
    )
    assert check(folder, quick=True).ok  # which looks at no pixels


def test_segment_without_pixels(folder):
    folder.segments.append({"id": 12345, "category_id": 7})
    folder.write()
    assert_found(check(folder), "segment without pixels", "a.png", "12345")


def test_wrong_area(folder):
    folder.segments[3]["area"] = 35
    folder.write()
    report = check(folder)
    assert_found(report, "different areas", "segment 2 has 36", "35", is_error=False)
    assert len(report.problems) == 1


def test_a_broken_record_does_not_hide_other_problems(folder):
    folder.data["annotations"].append({"image_id": None})
    folder.segments.append({"id": 4, "category_id": 99})
    del folder.data["images"][1]["width"]
    folder.write()
    report = check(folder)
    assert_found(report, "broken record", "annotation number 3", "'image_id'")
    assert_found(report, "broken record", "image number 2", "'width'")
    assert_found(report, "unknown category", "segment 4", "99")


def test_text_of_files_is_escaped(folder):
    folder.data["categories"][0]["name"] = "\x1b[2Jroad"
    folder.data["images"][1]["file_name"] = "more/\x1b[31m.png"
    folder.write()
    summary = check(folder).summary()
    assert "\x1b" not in summary
    assert r"\x1b[2Jroad" in summary
    assert r"more/\x1b[31m.png" in summary


def test_reports_on_two_splits_say_nothing_twice(folder):
    folder.data["images"][0]["file_name"] = "gone.jpg"
    folder.data["images"].append({**folder.data["images"][1], "id": 9})
    folder.write()
    splits = ("TRAIN", "TEST")
    text = summarize([check(folder, split=s, evaluation=s == "TEST") for s in splits])
    text = " ".join(text.split())  # lines are broken
    assert text.count("gone.jpg") == 1
    assert text.count("more/b.png' is") == 0
    assert text.count("2 images have the file name 'more/b.png'") == 1
    assert text.count("person") == 1
    assert "TRAIN segments" in text
    assert "2 errors in TRAIN and TEST" in text


def test_many_problems_are_listed_briefly(folder):
    folder.segments.extend({"id": number, "category_id": 7} for number in range(1000, 1020))
    folder.write()
    report = check(folder)
    assert len(report.errors) == 20
    assert "segment without pixels (20)" in report.summary()
    assert "... and 15 more" in report.summary()
