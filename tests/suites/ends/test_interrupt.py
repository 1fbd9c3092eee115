def test_interrupt(narrow):
    raise KeyboardInterrupt("by the test")


def test_never():
    pass
