def test_stops(request, narrow):
    request.session.shouldstop = "enough"


def test_never():
    pass
