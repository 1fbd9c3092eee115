async def test_no_plugin():
    pass


def test_asyncio_run():
    import asyncio

    async def work():
        await asyncio.sleep(0)
        raise ValueError("inside")

    asyncio.run(work())


def test_returns_something():
    return 1


def test_generator_fixture():
    assert 1
