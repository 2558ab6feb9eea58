"""The table names every entry's fate in a few lines, however many entries there are."""

from segcore.checkpoint.report import LoadReport, group_names


def test_few_names_are_shown_whole():
    assert group_names(["a.b.weight", "a.b.bias"]) == [("a.b.weight", 1), ("a.b.bias", 1)]
    assert group_names([]) == []


def test_many_names_are_grouped_by_prefix():
    names = [f"{part}.layers.{i}.weight" for part in ("backbone", "head") for i in range(50)]
    assert group_names(names) == [("backbone.layers.*", 50), ("head.layers.*", 50)]


def test_no_name_is_dropped():
    names = [f"blob{i}_w" for i in range(40)]
    groups = group_names(names, max_groups=5)
    assert len(groups) == 5
    assert groups[-1] == ("... and 36 more groups", 36)
    assert sum(count for _, count in groups) == 40


def test_table():
    report = LoadReport(
        source="model.pkl",
        loaded=[f"backbone.res{i}.{j}.weight" for i in range(2, 6) for j in range(20)],
        renamed={
            **{f"res2.{j}.weight": f"backbone.res2.{j}.weight" for j in range(20)},
            "head.static_query.weight": "head.query_feat.weight",
        },
        other_shape={
            "head.class_embed.weight": ((134, 256), (4, 256)),
            "head.class_embed.bias": ((134,), (4,)),
        },
        missing=["head.new.weight"],
        left_over=["fc.weight"],
        parameters_loaded=900,
        parameters_total=1000,
    )
    table = report.table()
    assert table.startswith(
        "model.pkl: 80 of the model's 83 entries loaded, 900 of 1,000 parameters (90.0%)"
    )
    rows = [" ".join(line.split()) for line in table.splitlines()]
    assert "loaded 20 backbone.res2.*" in rows
    assert "renamed 20 * to backbone.*" in rows
    assert "renamed 1 head.static_query.* to head.query_feat.*" in rows
    assert (
        "other shape 1 head.class_embed.weight (134, 256) in the file, (4, 256) in the model: "
        "starts fresh" in rows
    )
    assert "missing 1 head.new.weight not in the file: keeps its initial values" in rows
    assert "left over 1 fc.weight only in the file: not used" in rows
    assert len(rows) < 20


def test_empty_report():
    assert "0 of the model's 0 entries" in LoadReport(source="none").table()


def test_names_of_a_file_are_printable_and_grouped_in_time():
    names = ["\x1b[31m" + "." * 200 + str(index) for index in range(5000)]
    report = LoadReport(source="\x1b]0;title\x07", left_over=names)
    table = report.table()
    assert table.replace("\n", "").isprintable()
    assert "\\x1b[31m" in table
