def test_property(record_property):
    record_property("number", 3)
    record_property("text", "ü")
    record_property("none", None)
    record_property("list", [1, "two"])
    record_property("tuple", (1, 2))
    record_property("mapping", {"a": 1})


def test_property_then_fails(record_property):
    record_property("number", 4)
    assert 0


def test_suite_property(record_testsuite_property):
    record_testsuite_property("suite", "value")


def test_attribute(record_xml_attribute):
    record_xml_attribute("assertions", "7")


def test_user_properties(request):
    request.node.user_properties.append(("direct", 1))


def test_keywords(request):
    request.node.keywords["added"] = 1
    assert 0


def test_section(request):
    request.node.add_report_section("call", "extra", "by hand")
    assert 0
