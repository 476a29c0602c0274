from workbench.plot import table


def test_columns_keep_order_and_numbers_stand_right():
    figure = table({"Model": ["a", "b"], "Heads": [64, 1024]})
    trace = figure.data[0]
    assert list(trace.header["values"]) == ["<b>Model</b>", "<b>Heads</b>"]
    assert [list(c) for c in trace.cells["values"]] == [["a", "b"], ["64", "1,024"]]
    assert list(trace.header.align) == ["left", "right"]
